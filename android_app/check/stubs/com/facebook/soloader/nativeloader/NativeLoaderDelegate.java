package com.facebook.soloader.nativeloader; public interface NativeLoaderDelegate { }
