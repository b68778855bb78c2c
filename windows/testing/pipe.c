/*
 * What wg.exe does: pipe NAME [LINE]... opens the control pipe of a tunnel, checks that it belongs to LocalSystem,
 * sends the lines ("get=1" if there are none), and prints the answer. Fails if that is not errno=0.
 */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <aclapi.h>
#include <stdio.h>
#include <string.h>

static char answer[65536];

static int belongs_to_system(HANDLE pipe) {
  BYTE system[SECURITY_MAX_SID_SIZE];
  DWORD size = sizeof system;
  PSID owner;
  PSECURITY_DESCRIPTOR descriptor;
  int same;
  if (!CreateWellKnownSid(WinLocalSystemSid, NULL, system, &size)) return 0;
  if (GetSecurityInfo(pipe, SE_FILE_OBJECT, OWNER_SECURITY_INFORMATION, &owner, NULL, NULL, NULL, &descriptor)) {
    return 0;
  }
  same = EqualSid(system, owner);
  LocalFree(descriptor);
  return same;
}

static int send(HANDLE pipe, const char *text) {
  DWORD written;
  return WriteFile(pipe, text, (DWORD)strlen(text), &written, NULL) && written == strlen(text);
}

int main(int count, char **words) {
  char path[256];
  DWORD got, length = 0;
  HANDLE pipe;
  int i;
  if (count < 2) return 2;
  snprintf(path, sizeof path, "\\\\.\\pipe\\ProtectedPrefix\\Administrators\\WireGuard\\%s", words[1]);
  pipe = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, 0, NULL);
  if (pipe == INVALID_HANDLE_VALUE) return printf("%s: error %lu\n", path, GetLastError()), 1;
  if (!belongs_to_system(pipe)) return puts("the pipe does not belong to LocalSystem"), 1;
  if (count == 2 && !send(pipe, "get=1\n")) return puts("cannot write"), 1;
  for (i = 2; i < count; i++) {
    if (!send(pipe, words[i]) || !send(pipe, "\n")) return puts("cannot write"), 1;
  }
  if (!send(pipe, "\n")) return puts("cannot write"), 1;
  while (length < sizeof answer - 1 && !strstr(answer, "\n\n") &&
         ReadFile(pipe, answer + length, (DWORD)(sizeof answer - 1 - length), &got, NULL) && got) {
    length += got;
    answer[length] = 0;
  }
  fputs(answer, stdout);
  return strstr(answer, "errno=0\n\n") == NULL;
}
