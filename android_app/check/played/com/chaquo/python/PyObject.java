package com.chaquo.python;

import org.crowdlearn.check.Played;

/** An object of Python's, held by the player. */
public class PyObject {
  public PyObject callAttr(String name, Object... arguments) {
    return (PyObject) Played.call(this, "com.chaquo.python.PyObject.callAttr", name, arguments);
  }

  @Override
  public String toString() {
    return (String) Played.call(this, "com.chaquo.python.PyObject.toString");
  }
}
