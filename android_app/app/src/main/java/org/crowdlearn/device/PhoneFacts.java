package org.crowdlearn.device;

import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.net.ConnectivityManager;
import android.os.BatteryManager;
import android.os.Build;
import android.os.PowerManager;
import org.json.JSONException;
import org.json.JSONObject;

/** The phone as Python sees it: crowdlearn_device.app.phone.Phone. What crosses is JSON. */
public final class PhoneFacts {
  /** What is told whenever the status changes. */
  interface Listener {
    void changed(JSONObject status);
  }

  private final Context context;
  private final Listener listener;
  private final Meters meters;
  private final Programs programs;

  PhoneFacts(Context context, Listener listener) {
    this.context = context;
    this.listener = listener;
    meters = new Meters(context);
    programs = new Programs(context);
  }

  public String facts() throws JSONException {
    JSONObject told = new JSONObject();
    Intent battery = battery(context);
    if (battery != null) {
      int level = battery.getIntExtra(BatteryManager.EXTRA_LEVEL, -1);
      int scale = battery.getIntExtra(BatteryManager.EXTRA_SCALE, -1);
      if (level >= 0 && scale > 0) {
        told.put("percent", 100 * level / scale);
      }
      told.put("charging", battery.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0);
      int tenths = battery.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, Integer.MIN_VALUE);
      if (tenths != Integer.MIN_VALUE) {
        told.put("celsius", tenths / 10.0);
      }
    }
    Object network = context.getSystemService(Context.CONNECTIVITY_SERVICE);
    told.put("unmetered", !((ConnectivityManager) network).isActiveNetworkMetered());
    PowerManager power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
    told.put("idle", !power.isInteractive());
    if (Build.VERSION.SDK_INT >= 29) {
      told.put("thermal", power.getCurrentThermalStatus());
    }
    return told.toString();
  }

  public String meters() throws JSONException {
    return meters.read().toString();
  }

  public void show(String status) throws JSONException {
    listener.changed(new JSONObject(status));
  }

  public int program(int descriptor) {
    return programs.start(descriptor);
  }

  public void endProgram(int number) {
    programs.end(number);
  }

  static Intent battery(Context context) {
    return context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
  }
}
