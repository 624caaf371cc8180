package com.chaquo.python;

/** What the app uses of Chaquopy's class, for the check of `make android-check`. */
public class PyObject {
  public PyObject callAttr(String name, Object... arguments) {
    throw new UnsupportedOperationException();
  }
}
