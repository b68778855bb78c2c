/* What a JVM cannot do by itself: both ends of a stand-in for a TUN, which notices when one is closed. Host.java
   declares it. */
#include "com_wgembed_Host.h"

#include <dirent.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

JNIEXPORT jintArray JNICALL Java_com_wgembed_Host_socketpair(JNIEnv *env, jclass class) {
  int fds[2];
  (void)class;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) return NULL;
  jintArray array = (*env)->NewIntArray(env, 2);
  if (array != NULL) (*env)->SetIntArrayRegion(env, array, 0, 2, fds);
  return array;
}

JNIEXPORT jint JNICALL Java_com_wgembed_Host_send(JNIEnv *env, jclass class, jint fd, jbyteArray packet) {
  jsize len = (*env)->GetArrayLength(env, packet);
  jbyte *bytes = (*env)->GetByteArrayElements(env, packet, NULL);
  (void)class;
  if (bytes == NULL) return -1;
  jint sent = (jint)write(fd, bytes, (size_t)len);
  (*env)->ReleaseByteArrayElements(env, packet, bytes, JNI_ABORT);
  return sent;
}

JNIEXPORT jbyteArray JNICALL Java_com_wgembed_Host_receive(JNIEnv *env, jclass class, jint fd, jint milliseconds) {
  struct pollfd poll_fd = {fd, POLLIN, 0};
  jbyte bytes[2048];
  (void)class;
  if (poll(&poll_fd, 1, milliseconds) != 1) return NULL;
  ssize_t len = read(fd, bytes, sizeof bytes);
  if (len < 0) return NULL;
  jbyteArray array = (*env)->NewByteArray(env, (jsize)len);
  if (array != NULL) (*env)->SetByteArrayRegion(env, array, 0, (jsize)len, bytes);
  return array;
}

JNIEXPORT jint JNICALL Java_com_wgembed_Host_dup(JNIEnv *env, jclass class, jint fd) {
  (void)env;
  (void)class;
  return dup(fd);
}

JNIEXPORT jint JNICALL Java_com_wgembed_Host_close(JNIEnv *env, jclass class, jint fd) {
  (void)env;
  (void)class;
  return close(fd);
}

JNIEXPORT jint JNICALL Java_com_wgembed_Host_entries(JNIEnv *env, jclass class, jboolean threads) {
  DIR *dir = opendir(threads ? "/proc/self/task" : "/proc/self/fd");
  int count = 0;
  (void)env;
  (void)class;
  if (dir == NULL) return -1;
  while (readdir(dir) != NULL) count++;
  closedir(dir);
  return count;
}

JNIEXPORT void JNICALL Java_com_wgembed_Host_misuse(JNIEnv *env, jclass class) {
  (void)class;
  for (int i = 0; i < 200; i++) (void)(*env)->NewByteArray(env, 1);
  (*env)->ThrowNew(env, (*env)->FindClass(env, "java/lang/IllegalStateException"), "pending");
  (void)(*env)->NewByteArray(env, 1);
  (*env)->ExceptionClear(env);
}
