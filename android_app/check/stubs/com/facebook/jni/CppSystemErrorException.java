package com.facebook.jni; public class CppSystemErrorException extends CppException { public CppSystemErrorException(String m, int code) { super(m); } }
