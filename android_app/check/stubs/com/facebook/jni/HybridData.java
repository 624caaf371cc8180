package com.facebook.jni;

public class HybridData {
  private final Destructor mDestructor = new Destructor(this);
  public synchronized void resetNative() { mDestructor.destruct(); }
  public boolean isValid() { return mDestructor.mNativePointer != 0; }
  public static class Destructor extends DestructorThread.Destructor {
    volatile long mNativePointer;
    Destructor(Object referent) { super(referent); }
    protected final void destruct() { deleteNative(mNativePointer); mNativePointer = 0; }
    static native void deleteNative(long pointer);
  }
}
