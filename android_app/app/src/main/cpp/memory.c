/* Memory that Python's arrays own, seen as a direct buffer of Java: nothing is copied between the two. */
#include <jni.h>
#include <stdint.h>

JNIEXPORT jobject JNICALL Java_org_crowdlearn_device_Memory_at(JNIEnv *env, jclass type, jlong address, jlong size) {
  (void)type;
  return (*env)->NewDirectByteBuffer(env, (void *)(intptr_t)address, size);
}
