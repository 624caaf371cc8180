package com.facebook.jni;

import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;

public class DestructorThread {
  static final ReferenceQueue<Object> QUEUE = new ReferenceQueue<>();
  public abstract static class Destructor extends PhantomReference<Object> {
    Destructor(Object referent) { super(referent, QUEUE); }
    protected abstract void destruct();
  }
}
