package org.crowdlearn.device;

import android.app.Notification;
import android.app.NotificationChannel;
import android.app.NotificationManager;
import android.app.PendingIntent;
import android.app.Service;
import android.content.Context;
import android.content.Intent;
import android.content.SharedPreferences;
import android.content.pm.ServiceInfo;
import android.os.Build;
import android.os.IBinder;
import android.os.PowerManager;
import android.util.Log;
import com.chaquo.python.PyObject;
import java.util.Iterator;
import java.util.Locale;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Runs Python's half of the app in the foreground for as long as the owner takes part.
 *
 * <p>Whether the owner does is kept, so that a reboot, an update or a killed process goes on by itself; everything
 * else that must last lies in the files of Python's half.
 */
public final class TrainingService extends Service {
  static final String STOP = "org.crowdlearn.device.STOP";
  static final String STATUS = "org.crowdlearn.device.STATUS";
  private static final String TAG = "crowdlearn";
  private static final String CHANNEL = "training";
  private static final String TAKES_PART = "takes_part";
  private static final int NOTIFICATION = 1;
  private static final long FIRST_PAUSE = 5000;
  private static final long LAST_PAUSE = 600000;

  /** The last status, for a screen that is opened later. */
  static volatile String lastStatus = "{}";

  private final Object again = new Object();
  private Thread thread;
  private volatile PyObject python;
  private volatile boolean stopped;
  private PowerManager.WakeLock awake;

  @Override
  public IBinder onBind(Intent intent) {
    return null;
  }

  @Override
  public void onCreate() {
    super.onCreate();
    if (Build.VERSION.SDK_INT >= 26) {
      NotificationManager manager = (NotificationManager) getSystemService(NOTIFICATION_SERVICE);
      int importance = NotificationManager.IMPORTANCE_LOW;
      manager.createNotificationChannel(
          new NotificationChannel(CHANNEL, getString(R.string.channel), importance));
    }
    PowerManager power = (PowerManager) getSystemService(POWER_SERVICE);
    awake = power.newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "crowdlearn:training");
  }

  @Override
  public int onStartCommand(Intent intent, int flags, int startId) {
    show(notification("crowdlearn", ""));
    if (intent != null && STOP.equals(intent.getAction())) {
      setTakesPart(this, false);
      stopSelf();
      return START_NOT_STICKY;
    }
    setTakesPart(this, true);
    String arguments = intent == null ? null : intent.getStringExtra("arguments");
    if (thread == null) {
      begin(arguments == null ? "" : arguments);
    } else {
      goOn();
    }
    return START_STICKY; // without an intent the next start dials the invited host, and waits for adb
  }

  @Override
  public void onDestroy() {
    stopped = true;
    goOn();
    PyObject running = python;
    if (running != null) {
      running.callAttr("stop"); // others take over what this device holds
    }
    if (awake.isHeld()) {
      awake.release();
    }
    super.onDestroy();
  }

  @Override
  public void onTaskRemoved(Intent root) {
    // The screen was swiped away; the service goes on, and its notification stops it.
  }

  private void begin(final String arguments) {
    final PhoneFacts phone =
        new PhoneFacts(
            this,
            new PhoneFacts.Listener() {
              @Override
              public void changed(JSONObject status) {
                told(status);
              }
            });
    thread =
        new Thread("crowdlearn") {
          @Override
          public void run() {
            for (long pause = FIRST_PAUSE; !stopped; pause = Math.min(2 * pause, LAST_PAUSE)) {
              try {
                python = new Runtime(TrainingService.this).service(phone, arguments);
                if (!stopped) {
                  python.callAttr("run");
                }
                break;
              } catch (RuntimeException error) {
                Log.e(TAG, "the runtime ended", error);
                rest(error, pause);
              }
            }
            stopSelf();
          }
        };
    thread.start();
  }

  /** Waits, after Python's half ended by an error, until it may begin again; shows why. */
  private void rest(RuntimeException error, long pause) {
    python = null;
    try {
      String state = "ended by an error, begins again in " + pause / 1000 + " s: " + error.getMessage();
      told(new JSONObject().put("state", state).put("received", 0));
      WakeJob.schedule(this, new Runtime(this).policy(), pause);
    } catch (JSONException | RuntimeException other) {
      Log.e(TAG, "what happened cannot be shown", other);
    }
    synchronized (again) {
      try {
        if (!stopped) {
          again.wait(pause); // a phone that sleeps meanwhile is woken by the job
        }
      } catch (InterruptedException interrupted) {
        stopped = true;
      }
    }
  }

  /** Has Python's half begin again at once, if it rests after an error. */
  private void goOn() {
    synchronized (again) {
      again.notifyAll();
    }
  }

  private void told(JSONObject status) {
    lastStatus = status.toString();
    String state = status.optString("state");
    // Only work keeps the processor awake: a phone that waits or rests may sleep.
    boolean works = state.equals("taking part");
    synchronized (awake) {
      if (works && !awake.isHeld()) {
        awake.acquire();
      } else if (!works && awake.isHeld()) {
        awake.release();
      }
    }
    if (state.startsWith("resting")) {
      WakeJob.schedule(this, new Runtime(this).policy(), 0);
    }
    if (!stopped) {
      NotificationManager manager = (NotificationManager) getSystemService(NOTIFICATION_SERVICE);
      manager.notify(NOTIFICATION, notification(title(status), text(status)));
    }
    sendBroadcast(new Intent(STATUS).setPackage(getPackageName()));
  }

  private static String title(JSONObject status) {
    String run = status.optString("run");
    return run.isEmpty() ? status.optString("state") : run + ": " + status.optString("state");
  }

  /** Progress, loss, bytes and joules in one line. */
  static String text(JSONObject status) {
    StringBuilder line = new StringBuilder("mini-batch " + status.optLong("boundary"));
    if (!status.isNull("loss")) {
      line.append(String.format(Locale.ROOT, ", loss %.4f", status.optDouble("loss")));
    }
    double sent = 0;
    JSONObject kinds = status.optJSONObject("sent");
    for (Iterator<String> names = kinds == null ? null : kinds.keys(); names != null && names.hasNext(); ) {
      sent += kinds.optDouble(names.next());
    }
    double received = status.optDouble("received");
    line.append(String.format(Locale.ROOT, ", %.1f MB sent, %.1f MB received", sent / 1e6, received / 1e6));
    if (!status.isNull("joules")) {
      line.append(String.format(Locale.ROOT, ", %.0f J", status.optDouble("joules")));
    }
    return line.toString();
  }

  private void show(Notification notification) {
    if (Build.VERSION.SDK_INT >= 34) {
      startForeground(NOTIFICATION, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_SPECIAL_USE);
    } else {
      startForeground(NOTIFICATION, notification);
    }
  }

  private Notification notification(String title, String text) {
    int fixed = PendingIntent.FLAG_IMMUTABLE;
    Intent stop = new Intent(this, TrainingService.class).setAction(STOP);
    PendingIntent stopping = PendingIntent.getService(this, 0, stop, fixed);
    PendingIntent opening = PendingIntent.getActivity(this, 0, new Intent(this, MainActivity.class), fixed);
    Notification.Builder builder =
        Build.VERSION.SDK_INT >= 26
            ? new Notification.Builder(this, CHANNEL)
            : new Notification.Builder(this);
    Notification.Action action =
        new Notification.Action.Builder(R.drawable.icon, getString(R.string.stop), stopping).build();
    builder.setContentTitle(title).setContentText(text).setSmallIcon(R.drawable.icon);
    builder.setContentIntent(opening).setOngoing(true).setOnlyAlertOnce(true).addAction(action);
    return builder.build();
  }

  /** Whether the owner takes part, until the owner stops it. */
  static boolean takesPart(Context context) {
    return preferences(context).getBoolean(TAKES_PART, false);
  }

  static void setTakesPart(Context context, boolean takesPart) {
    preferences(context).edit().putBoolean(TAKES_PART, takesPart).commit();
  }

  /** Starts it, or tells what Android says against that; null if it starts. */
  static String start(Context context) {
    Intent intent = new Intent(context, TrainingService.class);
    try {
      if (Build.VERSION.SDK_INT >= 26) {
        context.startForegroundService(intent);
      } else {
        context.startService(intent);
      }
      return null;
    } catch (IllegalStateException error) { // Android 12 and newer, from the background
      Log.w(TAG, "the service may not start now", error);
      return String.valueOf(error.getMessage());
    }
  }

  static Notification invitation(Context context, String text) {
    Intent open = new Intent(context, MainActivity.class).setAction(MainActivity.CONTINUE);
    int fixed = PendingIntent.FLAG_IMMUTABLE;
    Notification.Builder builder =
        Build.VERSION.SDK_INT >= 26
            ? new Notification.Builder(context, CHANNEL)
            : new Notification.Builder(context);
    builder.setContentTitle(text).setSmallIcon(R.drawable.icon).setAutoCancel(true);
    builder.setContentIntent(PendingIntent.getActivity(context, 1, open, fixed));
    return builder.build();
  }

  private static SharedPreferences preferences(Context context) {
    return context.getSharedPreferences("service", Context.MODE_PRIVATE);
  }
}
