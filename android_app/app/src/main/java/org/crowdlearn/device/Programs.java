package org.crowdlearn.device;

import android.content.ComponentName;
import android.content.Context;
import android.content.Intent;
import android.content.ServiceConnection;
import android.os.Build;
import android.os.IBinder;
import android.os.Parcel;
import android.os.ParcelFileDescriptor;
import android.os.RemoteException;
import android.util.Log;
import java.io.IOException;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Isolated processes, one for each program: Python's half asks for them, and has them ended. */
final class Programs {
  /** There are none on this Android: before API 29 all programs would share one. */
  static final int NONE = 0;

  static final int FAILED = -1;
  private static final String TAG = "crowdlearn";
  private static final int SECONDS = 30;

  private final Context context;
  private final Map<Integer, ServiceConnection> processes = new HashMap<>();
  private int last;

  Programs(Context context) {
    this.context = context;
  }

  /** Begins a process whose line is a copy of this descriptor. Its number, NONE or FAILED. */
  int start(int descriptor) {
    if (Build.VERSION.SDK_INT < 29) {
      return NONE;
    }
    final BlockingQueue<IBinder> connected = new LinkedBlockingQueue<>();
    ServiceConnection connection =
        new ServiceConnection() {
          @Override
          public void onServiceConnected(ComponentName name, IBinder binder) {
            connected.add(binder);
          }

          @Override
          public void onServiceDisconnected(ComponentName name) {
            // Its line has ended, which Python's half sees; Android begins no other one for it.
          }
        };
    int number = add(connection);
    Executor atOnce =
        new Executor() {
          @Override
          public void execute(Runnable work) {
            work.run();
          }
        };
    Intent program = new Intent(context, ProgramService.class);
    try {
      if (context.bindIsolatedService(
          program, Context.BIND_AUTO_CREATE, "program" + number, atOnce, connection)) {
        IBinder binder = connected.poll(SECONDS, TimeUnit.SECONDS);
        if (binder != null && given(binder, descriptor)) {
          return number;
        }
      }
    } catch (InterruptedException | IOException | RemoteException | RuntimeException error) {
      Log.e(TAG, "no process for a program", error);
    }
    end(number);
    return FAILED;
  }

  /** Ends a process, whatever its program does. */
  void end(int number) {
    ServiceConnection connection;
    synchronized (processes) {
      connection = processes.remove(number);
    }
    if (connection != null) {
      context.unbindService(connection);
    }
  }

  private int add(ServiceConnection connection) {
    synchronized (processes) {
      processes.put(++last, connection);
      return last;
    }
  }

  private static boolean given(IBinder binder, int descriptor) throws IOException, RemoteException {
    Parcel data = Parcel.obtain();
    Parcel reply = Parcel.obtain();
    ParcelFileDescriptor line = ParcelFileDescriptor.fromFd(descriptor);
    try {
      data.writeFileDescriptor(line.getFileDescriptor());
      return binder.transact(ProgramService.LINE, data, reply, 0);
    } finally {
      line.close();
      data.recycle();
      reply.recycle();
    }
  }
}
