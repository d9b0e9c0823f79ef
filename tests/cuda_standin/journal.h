// What the stand-in's libraries write down: one line for each thing that would have happened on a card.
#pragma once
#include <cstdarg>
#include <cstddef>
#define API extern "C" __attribute__((visibility("default")))

API void journal(const char* format, ...);
API int refused(const char* what);  // 0, or CUDA's status for a call that is forbidden while a stream is captured
API void capturing(int state);      // 1: a stream is being captured
API int is_capturing();
