package org.crowdlearn.device;

import android.app.NotificationManager;
import android.app.job.JobInfo;
import android.app.job.JobParameters;
import android.app.job.JobScheduler;
import android.app.job.JobService;
import android.content.ComponentName;
import android.content.Context;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Comes when the conditions of the policy hold, also after doze and a reboot, and has the service run.
 *
 * <p>Where Android lets no service start from the background, it asks the owner by a notification.
 */
public final class WakeJob extends JobService {
  private static final int NUMBER = 1;
  private static final int INVITATION = 2;

  /** Has the job come when the conditions of a policy hold, after so many milliseconds at the earliest. */
  static void schedule(Context context, String policy, long earliest) {
    JobInfo.Builder job = new JobInfo.Builder(NUMBER, new ComponentName(context, WakeJob.class));
    try {
      JSONObject wanted = new JSONObject(policy);
      boolean unmetered = wanted.getBoolean("unmetered");
      job.setRequiredNetworkType(
          unmetered ? JobInfo.NETWORK_TYPE_UNMETERED : JobInfo.NETWORK_TYPE_ANY);
      job.setRequiresCharging(wanted.getBoolean("charging"));
      job.setRequiresDeviceIdle(wanted.getBoolean("idle"));
    } catch (JSONException error) {
      throw new IllegalArgumentException(error);
    }
    if (earliest > 0) {
      job.setMinimumLatency(earliest);
    }
    job.setPersisted(true);
    ((JobScheduler) context.getSystemService(Context.JOB_SCHEDULER_SERVICE)).schedule(job.build());
  }

  @Override
  public boolean onStartJob(JobParameters parameters) {
    if (TrainingService.takesPart(this) && TrainingService.start(this) != null) {
      NotificationManager manager = (NotificationManager) getSystemService(NOTIFICATION_SERVICE);
      manager.notify(
          INVITATION, TrainingService.invitation(this, getString(R.string.tap_to_continue)));
    }
    return false;
  }

  @Override
  public boolean onStopJob(JobParameters parameters) {
    return true;
  }
}
