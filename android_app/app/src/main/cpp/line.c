/* The line of a program's process to the device, and the memory that both see: what Java has no words for. */
#define _GNU_SOURCE
#include <errno.h>
#include <jni.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Bytes of the next packet, 0 at the end of the line, or a negative errno; a descriptor beside it, or -1. */
JNIEXPORT jint JNICALL Java_org_crowdlearn_device_Line_receive(JNIEnv *env, jclass type, jint line, jobject packet,
                                                              jintArray beside) {
  (void)type;
  struct iovec room = {(*env)->GetDirectBufferAddress(env, packet), (size_t)(*env)->GetDirectBufferCapacity(env, packet)};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t size;
  do size = recvmsg(line, &message, MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  if (size < 0) return -errno;
  jint descriptor = -1;
  struct cmsghdr *found = CMSG_FIRSTHDR(&message);
  if (found && found->cmsg_level == SOL_SOCKET && found->cmsg_type == SCM_RIGHTS)
    memcpy(&descriptor, CMSG_DATA(found), sizeof descriptor);
  (*env)->SetIntArrayRegion(env, beside, 0, 1, &descriptor);
  return (jint)size;
}

JNIEXPORT jboolean JNICALL Java_org_crowdlearn_device_Line_send(JNIEnv *env, jclass type, jint line, jobject packet,
                                                               jint size) {
  (void)type;
  ssize_t sent;
  do sent = send(line, (*env)->GetDirectBufferAddress(env, packet), (size_t)size, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == size;
}

/* The memory behind a descriptor, which is closed; null if it cannot be seen here. */
JNIEXPORT jobject JNICALL Java_org_crowdlearn_device_Line_map(JNIEnv *env, jclass type, jint descriptor, jlong size) {
  (void)type;
  void *place = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  return place == MAP_FAILED ? NULL : (*env)->NewDirectByteBuffer(env, place, size);
}

JNIEXPORT void JNICALL Java_org_crowdlearn_device_Line_unmap(JNIEnv *env, jclass type, jobject memory) {
  (void)type;
  munmap((*env)->GetDirectBufferAddress(env, memory), (size_t)(*env)->GetDirectBufferCapacity(env, memory));
}

/* Lets this process take so many bytes beyond those that it has, and leave no memory behind when it crashes. */
JNIEXPORT jboolean JNICALL Java_org_crowdlearn_device_Line_limit(JNIEnv *env, jclass type, jlong bytes) {
  (void)env, (void)type;
  unsigned long held = 0;
  char text[256];
  FILE *status = fopen("/proc/self/status", "re");
  while (status && !held && fgets(text, sizeof text, status)) sscanf(text, "VmData: %lu", &held);
  if (status) fclose(status);
  struct rlimit none = {0, 0}, most = {(held << 10) + (rlim_t)bytes, (held << 10) + (rlim_t)bytes};
  setrlimit(RLIMIT_CORE, &none);
  return held && setrlimit(RLIMIT_DATA, &most) == 0;
}
