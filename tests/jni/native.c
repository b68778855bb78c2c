/* For the class Native of the tests. */
#include <fcntl.h>
#include <jni.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define METHOD(type, name) JNIEXPORT type JNICALL Java_com_wireguard_android_backend_Native_##name

METHOD(jint, openTun)(JNIEnv *env, jclass class, jstring name) {
  const char *chars = (*env)->GetStringUTFChars(env, name, NULL);
  struct ifreq request;
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  (void)class;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", chars);
  (*env)->ReleaseStringUTFChars(env, name, chars);
  if (fd >= 0 && ioctl(fd, TUNSETIFF, &request) != 0) {
    perror("TUNSETIFF");
    close(fd);
    return -1;
  }
  return fd;
}

METHOD(jint, open)(JNIEnv *env, jclass class) {
  (void)env, (void)class;
  return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

METHOD(void, close)(JNIEnv *env, jclass class, jint fd) {
  (void)env, (void)class;
  close(fd);
}

METHOD(jlong, heap)(JNIEnv *env, jclass class) {
  struct mallinfo2 info = mallinfo2();
  (void)env, (void)class;
  return (jlong)(info.uordblks + info.hblkhd);
}
