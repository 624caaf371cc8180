package org.crowdlearn.device;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** Memory of Python's arrays as buffers of Java, without a copy; whoever owns an array keeps it alive. */
final class Memory {
  static {
    System.loadLibrary("crowdlearn");
  }

  private Memory() {}

  static ByteBuffer buffer(long address, long size) {
    return at(address, size).order(ByteOrder.nativeOrder());
  }

  private static native ByteBuffer at(long address, long size);
}
