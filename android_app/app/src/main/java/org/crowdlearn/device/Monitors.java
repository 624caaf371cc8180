package org.crowdlearn.device;

import android.content.ContentProvider;
import android.content.ContentValues;
import android.database.Cursor;
import android.net.Uri;
import android.os.Build;
import android.os.ParcelFileDescriptor;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.Charset;

/**
 * PowerMonitor's readings for adb's shell, which cannot ask for them itself: `content read --uri
 * content://org.crowdlearn.device.energy/monitors`. The manifest lets only holders of DUMP read it. Never run on
 * Android.
 */
public final class Monitors extends ContentProvider {
  private static final String PATH = "/monitors";
  private static final int ANDROID_15 = 35;
  private static final int MOST_BYTES = 1 << 15; // half of what a pipe holds

  @Override
  public boolean onCreate() {
    return true;
  }

  @Override
  public ParcelFileDescriptor openFile(Uri uri, String mode) throws FileNotFoundException {
    if (!PATH.equals(uri.getPath())) {
      throw new FileNotFoundException("there is only " + PATH);
    }
    if (!"r".equals(mode)) {
      throw new FileNotFoundException("it can only be read");
    }
    if (Build.VERSION.SDK_INT < ANDROID_15) {
      throw new FileNotFoundException("PowerMonitor takes Android 15");
    }
    byte[] lines = new Meters(getContext()).lines().getBytes(Charset.forName("UTF-8"));
    try {
      // A phone has some tens of monitors: their lines are less than a pipe holds, and nobody waits here.
      ParcelFileDescriptor[] pipe = ParcelFileDescriptor.createPipe();
      try {
        int length = Math.min(lines.length, MOST_BYTES);
        new FileOutputStream(pipe[1].getFileDescriptor()).write(lines, 0, length);
      } finally {
        pipe[1].close();
      }
      return pipe[0];
    } catch (IOException error) {
      throw new FileNotFoundException(String.valueOf(error.getMessage()));
    }
  }

  @Override
  public String getType(Uri uri) {
    return "text/plain";
  }

  @Override
  public Cursor query(Uri uri, String[] columns, String where, String[] values, String order) {
    return null;
  }

  @Override
  public Uri insert(Uri uri, ContentValues values) {
    return null;
  }

  @Override
  public int delete(Uri uri, String where, String[] values) {
    return 0;
  }

  @Override
  public int update(Uri uri, ContentValues values, String where, String[] with) {
    return 0;
  }
}
