package org.crowdlearn.device;

import android.content.Context;
import com.chaquo.python.PyObject;
import com.chaquo.python.Python;
import com.chaquo.python.android.AndroidPlatform;
import java.io.File;

/** Python's half of the app, crowdlearn_device.app.service, and the folders that it works in. */
final class Runtime {
  private final Context context;

  Runtime(Context context) {
    this.context = context;
  }

  /** The app's own folder, which nobody else reads: identity, state of runs, policy, invitation, data. */
  String home() {
    return context.getFilesDir().getAbsolutePath();
  }

  /** The folder that adb writes programs to. */
  String inbox() {
    File shared = context.getExternalFilesDir(null);
    return (shared == null ? new File(context.getFilesDir(), "inbox") : shared).getAbsolutePath();
  }

  PyObject service(PhoneFacts phone, String arguments) {
    return module().callAttr("Service", phone, home(), inbox(), arguments);
  }

  /** Whom an invitation leads to, or a list names, in words; throws PyException for another link. */
  String described(String link) {
    return module().callAttr("described", link).toString();
  }

  void invite(String link) {
    module().callAttr("invite", home(), link);
  }

  void forgetInvitation() {
    module().callAttr("forget_invitation", home());
  }

  String policy() {
    return module().callAttr("policy_json", home()).toString();
  }

  void setPolicy(String json) {
    module().callAttr("set_policy", home(), json);
  }

  private PyObject module() {
    if (!Python.isStarted()) {
      Python.start(new AndroidPlatform(context.getApplicationContext()));
    }
    return Python.getInstance().getModule("crowdlearn_device.app.service");
  }
}
