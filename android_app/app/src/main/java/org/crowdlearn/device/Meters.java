package org.crowdlearn.device;

import android.content.Context;
import android.content.Intent;
import android.os.BatteryManager;
import android.os.Build;
import android.os.OutcomeReceiver;
import android.os.PowerMonitor;
import android.os.PowerMonitorReadings;
import android.os.health.SystemHealthManager;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** Energy meters of the phone, as crowdlearn_device.energy.android reads them. */
final class Meters {
  private static final long PATIENCE_SECONDS = 5;
  private static final Executor HERE =
      new Executor() {
        @Override
        public void execute(Runnable work) {
          work.run();
        }
      };

  private final Context context;
  private List<PowerMonitor> rails;

  Meters(Context context) {
    this.context = context;
  }

  JSONObject read() throws JSONException {
    JSONObject told = new JSONObject();
    told.put("battery", battery());
    if (Build.VERSION.SDK_INT >= 35) {
      told.put("rails", rails());
    }
    return told;
  }

  /** The battery in the words and units of the kernel's power supplies. */
  private JSONObject battery() throws JSONException {
    JSONObject told = new JSONObject();
    told.put("maker", Build.MANUFACTURER);
    Intent now = PhoneFacts.battery(context);
    if (now != null) {
      told.put("voltage_now", now.getIntExtra(BatteryManager.EXTRA_VOLTAGE, 0));
      told.put("temp", now.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, 0));
      boolean plugged = now.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0;
      told.put("status", plugged ? "Charging" : "Discharging");
    }
    BatteryManager manager = (BatteryManager) context.getSystemService(Context.BATTERY_SERVICE);
    put(told, "current_now", manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW));
    put(told, "charge_counter", manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER));
    put(told, "capacity", manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY));
    return told;
  }

  private static void put(JSONObject told, String name, int value) throws JSONException {
    if (value != Integer.MIN_VALUE) { // which is how a phone says that it does not know
      told.put(name, value);
    }
  }

  private JSONArray rails() throws JSONException {
    if (rails == null) {
      rails = new ArrayList<>();
      for (PowerMonitor monitor : supported(health())) {
        if (monitor.getType() == PowerMonitor.POWER_MONITOR_TYPE_MEASUREMENT) {
          rails.add(monitor);
        }
      }
    }
    JSONArray told = new JSONArray();
    PowerMonitorReadings readings = rails.isEmpty() ? null : readings(health(), rails);
    if (readings == null) {
      return told;
    }
    for (int i = 0; i < rails.size(); i++) {
      long energy = readings.getConsumedEnergy(rails.get(i));
      if (energy != PowerMonitorReadings.ENERGY_UNAVAILABLE) {
        JSONObject rail = new JSONObject();
        rail.put("name", rails.get(i).getName());
        rail.put("microwatt_seconds", energy);
        rail.put("milliseconds", readings.getTimestampMillis(rails.get(i)));
        told.put(rail);
      }
    }
    return told;
  }

  /** Every monitor with a reading, as lines for adb's shell; nothing if there is none. */
  String lines() {
    List<PowerMonitor> all = supported(health());
    PowerMonitorReadings readings = all.isEmpty() ? null : readings(health(), all);
    StringBuilder told = new StringBuilder();
    for (int i = 0; readings != null && i < all.size(); i++) {
      PowerMonitor monitor = all.get(i);
      long energy = readings.getConsumedEnergy(monitor);
      if (energy != PowerMonitorReadings.ENERGY_UNAVAILABLE) {
        boolean measured = monitor.getType() == PowerMonitor.POWER_MONITOR_TYPE_MEASUREMENT;
        long milliseconds = readings.getTimestampMillis(monitor);
        told.append(MonitorLine.of(monitor.getName(), measured, energy, milliseconds));
      }
    }
    return told.toString();
  }

  private SystemHealthManager health() {
    return (SystemHealthManager) context.getSystemService(Context.SYSTEM_HEALTH_SERVICE);
  }

  private static List<PowerMonitor> supported(SystemHealthManager health) {
    final BlockingQueue<List<PowerMonitor>> answers = new ArrayBlockingQueue<>(1);
    health.getSupportedPowerMonitors(
        HERE,
        new Consumer<List<PowerMonitor>>() {
          @Override
          public void accept(List<PowerMonitor> found) {
            answers.offer(found);
          }
        });
    List<PowerMonitor> all = await(answers);
    return all == null ? new ArrayList<PowerMonitor>() : all;
  }

  private static PowerMonitorReadings readings(SystemHealthManager health, List<PowerMonitor> monitors) {
    final BlockingQueue<PowerMonitorReadings> answers = new ArrayBlockingQueue<>(1);
    health.getPowerMonitorReadings(
        monitors,
        HERE,
        new OutcomeReceiver<PowerMonitorReadings, RuntimeException>() {
          @Override
          public void onResult(PowerMonitorReadings found) {
            answers.offer(found);
          }
        });
    return await(answers);
  }

  private static <T> T await(BlockingQueue<T> answers) {
    try {
      return answers.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
      return null;
    }
  }
}
