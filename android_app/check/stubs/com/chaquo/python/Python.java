package com.chaquo.python;

/** What the app uses of Chaquopy's class, for the check of `make android-check`. */
public class Python {
  public static boolean isStarted() {
    throw new UnsupportedOperationException();
  }

  public static void start(Platform platform) {
    throw new UnsupportedOperationException();
  }

  public static Python getInstance() {
    throw new UnsupportedOperationException();
  }

  public PyObject getModule(String name) {
    throw new UnsupportedOperationException();
  }

  /** Where Python runs. */
  public static class Platform {}
}
