// The journal that all of the stand-in's libraries share, and what Python reads of it.
#include "journal.h"
#include <cstdio>
#include <mutex>
#include <string>

static std::mutex lock;
static std::string lines;
static int captured = 0;

API void journal(const char* format, ...) {
  char line[1024];
  va_list given;
  va_start(given, format);
  vsnprintf(line, sizeof line, format, given);
  va_end(given);
  std::lock_guard<std::mutex> hold(lock);
  lines += line;
  if (captured) lines += " [captured]";
  lines += '\n';
}
API void capturing(int state) { captured = state; }
API int is_capturing() { return captured; }
API int refused(const char* what) {
  if (!captured) return 0;
  journal("FORBIDDEN %s", what);
  return 900;
}
// Copies the journal into `to` and empties it; returns its length. With nothing to copy to, only the length.
API size_t journal_take(char* to, size_t room) {
  std::lock_guard<std::mutex> hold(lock);
  size_t length = lines.size();
  if (!to) return length;
  if (length > room) length = room;
  lines.copy(to, length);
  lines.erase(0, length);
  return length;
}
