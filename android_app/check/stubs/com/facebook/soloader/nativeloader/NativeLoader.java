package com.facebook.soloader.nativeloader;

public class NativeLoader {
  public static void init(NativeLoaderDelegate delegate) { }
  public static boolean isInitialized() { return true; }
  public static boolean loadLibrary(String name) { return loadLibrary(name, 0); }
  public static boolean loadLibrary(String name, int flags) { System.loadLibrary(name); return true; }
}
