package com.chaquo.python;

import org.crowdlearn.check.Played;

/** The Python in which the player runs. */
public class Python {
  public static boolean isStarted() {
    return true;
  }

  public static void start(Platform platform) {}

  public static Python getInstance() {
    return new Python();
  }

  public PyObject getModule(String name) {
    return (PyObject) Played.call(this, "com.chaquo.python.Python.getModule", name);
  }

  /** Where Python runs. */
  public static class Platform {}
}
