package com.facebook.soloader.nativeloader; public class SystemDelegate implements NativeLoaderDelegate { }
