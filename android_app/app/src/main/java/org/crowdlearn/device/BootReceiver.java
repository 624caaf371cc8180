package org.crowdlearn.device;

import android.content.BroadcastReceiver;
import android.content.Context;
import android.content.Intent;

/** Goes on after a reboot or an update, if the owner took part before. */
public final class BootReceiver extends BroadcastReceiver {
  @Override
  public void onReceive(Context context, Intent intent) {
    if (TrainingService.takesPart(context) && TrainingService.start(context) != null) {
      WakeJob.schedule(context, new Runtime(context).policy(), 0);
    }
  }
}
