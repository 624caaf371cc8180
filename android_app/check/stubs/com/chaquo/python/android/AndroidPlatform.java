package com.chaquo.python.android;

import android.content.Context;
import com.chaquo.python.Python;

/** What the app uses of Chaquopy's class, for the check of `make android-check`. */
public class AndroidPlatform extends Python.Platform {
  public AndroidPlatform(Context context) {}
}
