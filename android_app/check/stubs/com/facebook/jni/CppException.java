package com.facebook.jni; public class CppException extends RuntimeException { public CppException(String m) { super(m); } }
