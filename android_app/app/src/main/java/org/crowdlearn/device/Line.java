package org.crowdlearn.device;

import java.nio.ByteBuffer;

/** The line of a program's process to the device: packets, descriptors beside them, and memory behind those. */
final class Line {
  static {
    System.loadLibrary("crowdlearn");
  }

  private Line() {}

  /** Bytes of the next packet; 0 at the end of the line, below 0 if it broke. beside[0] is a descriptor, or -1. */
  static native int receive(int line, ByteBuffer packet, int[] beside);

  /** Sends the first bytes of a direct buffer; whether the line took them. */
  static native boolean send(int line, ByteBuffer packet, int size);

  /** The memory behind a descriptor, which is closed; null if it cannot be had. */
  static native ByteBuffer map(int descriptor, long size);

  static native void unmap(ByteBuffer memory);

  /** Lets this process take so many bytes beyond those that it has; whether the system holds it to that. */
  static native boolean limit(long bytes);
}
