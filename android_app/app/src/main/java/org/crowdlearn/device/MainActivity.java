package org.crowdlearn.device;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.BroadcastReceiver;
import android.content.Context;
import android.content.DialogInterface;
import android.content.Intent;
import android.content.IntentFilter;
import android.net.Uri;
import android.os.Build;
import android.os.Bundle;
import android.view.View;
import android.widget.Button;
import android.widget.CheckBox;
import android.widget.LinearLayout;
import android.widget.ScrollView;
import android.widget.TextView;
import java.io.IOException;
import java.util.Iterator;
import java.util.Locale;
import org.json.JSONException;
import org.json.JSONObject;

/** What is trained, for whom, what leaves the phone, and the owner's policy. */
public final class MainActivity extends Activity {
  static final String CONTINUE = "org.crowdlearn.device.CONTINUE";
  private static final int CHOOSE_SAMPLES = 1;
  private static final String[][] CONDITIONS = {
    {"charging", "only while charging"},
    {"unmetered", "only on networks that cost nothing (hosts that are dialled)"},
    {"idle", "only while the screen is off"},
    {"adb", "a computer that this phone trusts for debugging may train here"},
    {"isolated", "keep programs of hosts in processes of their own (else they are trusted as the app is)"},
    {"samples", "train on the samples of this phone (else it helps others only)"},
    {"listed_only", "only with devices of the signed list that I took"},
  };
  private static final String[][] LIMITS = {
    {"lowest_percent", "lowest battery, percent", "5"},
    {"highest_celsius", "highest battery temperature, degrees Celsius", "1"},
    {"highest_thermal", "highest thermal status of Android, 0 to 6", "1"},
    {"joules_a_day", "most joules a day, by the phone's meter (0: any number)", "500"},
  };

  private final Runtime runtime = new Runtime(this);
  private TextView status;
  private LinearLayout page;
  private BroadcastReceiver listener;

  @Override
  public void onCreate(Bundle saved) {
    super.onCreate(saved);
    page = new LinearLayout(this);
    page.setOrientation(LinearLayout.VERTICAL);
    page.setPadding(32, 96, 32, 96);
    ScrollView scroll = new ScrollView(this);
    scroll.addView(page);
    setContentView(scroll);
    build();
    if (Build.VERSION.SDK_INT >= 33) {
      requestPermissions(new String[] {"android.permission.POST_NOTIFICATIONS"}, 0);
    }
    take(getIntent());
  }

  @Override
  public void onNewIntent(Intent intent) {
    super.onNewIntent(intent);
    take(intent);
  }

  @Override
  public void onResume() {
    super.onResume();
    listener =
        new BroadcastReceiver() {
          @Override
          public void onReceive(Context context, Intent intent) {
            tell();
          }
        };
    IntentFilter filter = new IntentFilter(TrainingService.STATUS);
    if (Build.VERSION.SDK_INT >= 33) {
      registerReceiver(listener, filter, Context.RECEIVER_NOT_EXPORTED);
    } else {
      registerReceiver(listener, filter);
    }
    tell();
  }

  @Override
  public void onPause() {
    unregisterReceiver(listener);
    super.onPause();
  }

  private void build() {
    status = new TextView(this);
    page.addView(status);
    button(
        R.string.start,
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            TrainingService.start(MainActivity.this);
          }
        });
    button(
        R.string.stop,
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            TrainingService.setTakesPart(MainActivity.this, false);
            stopService(new Intent(MainActivity.this, TrainingService.class));
          }
        });
    button(
        R.string.choose_samples,
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            Intent choose = new Intent(Intent.ACTION_OPEN_DOCUMENT).setType("*/*");
            startActivityForResult(choose.addCategory(Intent.CATEGORY_OPENABLE), CHOOSE_SAMPLES);
          }
        });
    button(
        R.string.forget,
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            runtime.forgetInvitation();
            tell();
          }
        });
    try {
      JSONObject policy = new JSONObject(runtime.policy());
      for (int i = 0; i < CONDITIONS.length; i++) {
        condition(CONDITIONS[i][0], CONDITIONS[i][1], policy.getBoolean(CONDITIONS[i][0]));
      }
      for (int i = 0; i < LIMITS.length; i++) {
        limit(LIMITS[i][0], LIMITS[i][1], Integer.parseInt(LIMITS[i][2]));
      }
    } catch (JSONException error) {
      throw new IllegalStateException(error);
    }
  }

  private void button(int text, View.OnClickListener clicked) {
    Button button = new Button(this);
    button.setText(text);
    button.setOnClickListener(clicked);
    page.addView(button);
  }

  private void condition(final String name, String text, boolean holds) {
    final CheckBox box = new CheckBox(this);
    box.setText(text);
    box.setChecked(holds);
    box.setOnClickListener(
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            change(name, box.isChecked());
          }
        });
    page.addView(box);
  }

  /** A number, with a button to either side of it. */
  private void limit(final String name, final String text, final int step) throws JSONException {
    final TextView label = new TextView(this);
    label.setText(text + ": " + new JSONObject(runtime.policy()).get(name));
    page.addView(label);
    LinearLayout row = new LinearLayout(this);
    for (final int by : new int[] {-step, step}) {
      Button button = new Button(this);
      button.setText(by < 0 ? "less" : "more");
      button.setOnClickListener(
          new View.OnClickListener() {
            @Override
            public void onClick(View view) {
              try {
                int value = Math.max(new JSONObject(runtime.policy()).getInt(name) + by, 0);
                change(name, value);
                label.setText(text + ": " + value);
              } catch (JSONException error) {
                throw new IllegalStateException(error);
              }
            }
          });
      row.addView(button);
    }
    page.addView(row);
  }

  private void change(String name, Object value) {
    try {
      JSONObject policy = new JSONObject(runtime.policy());
      runtime.setPolicy(policy.put(name, value).toString());
      WakeJob.schedule(this, runtime.policy(), 0);
    } catch (JSONException error) {
      throw new IllegalStateException(error);
    }
  }

  /** Takes an invitation, or a list of devices, about which its owner is asked first, or goes on. */
  private void take(Intent intent) {
    Uri link = intent.getData();
    if (CONTINUE.equals(intent.getAction())) {
      TrainingService.start(this);
    }
    if (link == null) {
      return;
    }
    final String text = link.toString();
    intent.setData(null); // once: a rotated screen asks no second time
    AlertDialog.Builder dialog = new AlertDialog.Builder(this);
    try {
      String whom = runtime.described(text);
      boolean list = "devices".equals(link.getHost());
      dialog.setTitle(list ? R.string.list_question : R.string.join_question);
      int warning = list ? R.string.list_warning : R.string.join_warning;
      dialog.setMessage(whom + "\n\n" + getString(warning));
      dialog.setNegativeButton(R.string.cancel, null);
      dialog.setPositiveButton(
          list ? R.string.take_list : R.string.join,
          new DialogInterface.OnClickListener() {
            @Override
            public void onClick(DialogInterface shown, int which) {
              runtime.invite(text);
              stopService(new Intent(MainActivity.this, TrainingService.class));
              TrainingService.start(MainActivity.this);
            }
          });
    } catch (RuntimeException error) { // Python's JoinError or PolicyError
      dialog.setMessage(String.valueOf(error.getMessage()));
    }
    dialog.show();
  }

  @Override
  public void onActivityResult(int request, int result, Intent data) {
    super.onActivityResult(request, result, data);
    if (request != CHOOSE_SAMPLES || result != RESULT_OK || data == null || data.getData() == null) {
      return;
    }
    try {
      Samples.copy(this, data.getData(), "train.npz");
      tell();
    } catch (IOException error) {
      status.setText("The samples were not taken: " + error.getMessage());
    }
  }

  private void tell() {
    try {
      JSONObject told = new JSONObject(TrainingService.lastStatus);
      StringBuilder text = new StringBuilder();
      text.append("State: ").append(told.optString("state", "not taking part")).append('\n');
      text.append("Trained: ").append(told.optString("run", "nothing")).append('\n');
      text.append("For: ").append(told.optString("host", "nobody")).append('\n');
      text.append("This phone: ").append(told.optString("role")).append('\n');
      text.append(TrainingService.text(told)).append('\n');
      text.append("Programs run in: ").append(told.optString("programs", "")).append('\n');
      text.append("Fingerprint, to compare with others: ").append(told.optString("fingerprint"));
      text.append('\n');
      JSONObject sent = told.optJSONObject("sent");
      text.append("What left this phone:\n");
      for (Iterator<String> names = sent == null ? null : sent.keys();
          names != null && names.hasNext(); ) {
        String name = names.next();
        double bytes = sent.optDouble(name);
        text.append(String.format(Locale.ROOT, "  %s: %.2f MB%n", name, bytes / 1e6));
      }
      status.setText(text.toString());
    } catch (JSONException error) {
      throw new IllegalStateException(error);
    }
  }
}
