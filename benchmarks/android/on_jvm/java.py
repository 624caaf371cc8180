"""The module `java` of Chaquopy, as far as the executor uses it, on a Java VM of this computer."""

import os

import jpype

jpype.startJVM(
    f"-Djava.library.path={os.environ['CROWDLEARN_JVM']}", classpath=os.environ["CLASSPATH"].split(":")
)
jclass = jpype.JClass
jarray = jpype.JArray
jint, jlong, jbyte = jpype.JInt, jpype.JLong, jpype.JByte
