package org.crowdlearn.device;

import android.app.Service;
import android.content.Intent;
import android.os.Binder;
import android.os.IBinder;
import android.os.Parcel;
import android.os.ParcelFileDescriptor;
import android.os.Process;
import android.os.RemoteException;

/**
 * The process of one program. Android isolates it: it has none of the app's files and permissions, and no network.
 *
 * <p>It gets one thing, the line to Python's half, and ends with it.
 */
public final class ProgramService extends Service {
  /** The call that brings the line, as a descriptor. */
  static final int LINE = 1;

  private final Binder binder =
      new Binder() {
        @Override
        public boolean onTransact(int code, Parcel data, Parcel reply, int flags)
            throws RemoteException {
          if (code != LINE) {
            return super.onTransact(code, data, reply, flags);
          }
          serve(data.readFileDescriptor());
          return true;
        }
      };

  @Override
  public IBinder onBind(Intent intent) {
    return binder;
  }

  /** Ends the process, also one whose program never comes back. */
  @Override
  public boolean onUnbind(Intent intent) {
    Process.killProcess(Process.myPid());
    return false;
  }

  private static void serve(final ParcelFileDescriptor line) {
    new Thread("program") {
      @Override
      public void run() {
        try {
          new ProgramProcess(line.detachFd()).serve();
        } finally {
          Process.killProcess(Process.myPid());
        }
      }
    }.start();
  }
}
