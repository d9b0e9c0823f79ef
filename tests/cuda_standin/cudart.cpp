// CUDA's runtime over the machine's own memory. Kernels compute nothing; what the host sees of them is kept.
// Device memory is reserved and not touched until something is copied there, so that large models can be counted.
#include "journal.h"
#include "device.h"  // DEVICE: cudaDeviceProp as bytes, written by build.py
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <cstdlib>

typedef void* Handle;
struct Size3 { unsigned x, y, z; };
static std::mutex lock;
static std::map<void*, size_t> taken;
static std::map<const void*, std::string> kernels;
static size_t held = 0, most = 0;
static size_t limit() { const char* given = getenv("CUDA_STANDIN_BYTES"); return given ? strtoull(given, 0, 10) : (size_t)80 << 30; }
static const char* direction(int kind) {
  static const char* names[] = {"H2H", "H2D", "D2H", "D2D", "any"};
  return names[kind < 0 || kind > 4 ? 4 : kind];
}
static void move(void* to, const void* from, size_t size) {
  static bool still = getenv("CUDA_STANDIN_STILL");  // set: large copies are written down and not made
  if (!still || size < (1 << 20)) memmove(to, from, size);
}
static int take(void** out, size_t size, const char* how) {
  size_t whole = (size + 4095) / 4096 * 4096 + (size ? 0 : 4096);
  std::lock_guard<std::mutex> hold(lock);
  if (held + whole > limit()) { journal("out of memory %s %zu", how, size); return 2; }
  void* at = mmap(0, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return 2;
  taken[at] = whole;
  held += whole;
  most = held > most ? held : most;
  *out = at;
  journal("%s %zu", how, size);
  return 0;
}
static int give(void* at, const char* how) {
  if (!at) return 0;
  std::lock_guard<std::mutex> hold(lock);
  auto found = taken.find(at);
  if (found == taken.end()) return 1;
  journal("%s %zu", how, found->second);
  held -= found->second;
  munmap(at, found->second);
  taken.erase(found);
  return 0;
}

API size_t standin_held() { return held; }
API size_t standin_most() { return most; }

API int cudaGetDeviceCount(int* n) { *n = 1; return 0; }
API int cudaGetDevice(int* n) { *n = 0; return 0; }
API int cudaSetDevice(int) { return 0; }
API int cudaGetDeviceProperties(void* to, int) { memcpy(to, DEVICE, sizeof DEVICE); return 0; }
API int cudaDriverGetVersion(int* v) { const char* given = getenv("CUDA_STANDIN_DRIVER"); *v = given ? atoi(given) : 13000; return 0; }
API int cudaRuntimeGetVersion(int* v) { *v = 13000; return 0; }
API int cudaDeviceGetAttribute(int* v, int attribute, int) {
  switch (attribute) {
    case 1: *v = 1024; break;     // threads of a block
    case 8: *v = 49152; break;    // shared memory of a block
    case 10: *v = 32; break;      // warp
    case 12: case 82: *v = 65536; break;  // registers
    case 16: *v = 132; break;     // multiprocessors
    case 38: *v = 50 << 20; break;
    case 39: *v = 2048; break;
    case 75: *v = DEVICE_MAJOR; break;
    case 76: *v = DEVICE_MINOR; break;
    case 81: *v = 233472; break;
    case 97: *v = 232448; break;
    default: *v = 1;
  }
  return 0;
}
API int cudaMemGetInfo(size_t* free_, size_t* total) { *total = limit(); *free_ = limit() - held; return 0; }

API int cudaMalloc(void** at, size_t size) { if (int no = refused("cudaMalloc")) return no; return take(at, size, "malloc"); }
API int cudaFree(void* at) { if (int no = refused("cudaFree")) return no; return give(at, "free"); }
API int cudaMallocFromPoolAsync(void** at, size_t size, Handle, Handle) { return take(at, size, "malloc"); }
API int cudaMallocAsync(void** at, size_t size, Handle) { return take(at, size, "malloc"); }
API int cudaFreeAsync(void* at, Handle) { return give(at, "free"); }
API int cudaMallocHost(void** at, size_t size) { journal("mallochost %zu", size); return posix_memalign(at, 256, size ? size : 1) ? 2 : 0; }
API int cudaHostAlloc(void** at, size_t size, unsigned) { return cudaMallocHost(at, size); }
API int cudaFreeHost(void* at) { free(at); return 0; }
API int cudaPointerGetAttributes(void* to, const void* at) {
  memset(to, 0, 32);
  ((int*)to)[0] = 2;
  ((const void**)to)[1] = at;
  return 0;
}

API int cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, Handle stream) {
  journal("copy %s %zu stream %zx", direction(kind), size, (size_t)stream);
  move(to, from, size);
  return 0;
}
API int cudaMemcpy(void* to, const void* from, size_t size, int kind) {
  if (int no = refused("cudaMemcpy")) return no;
  return cudaMemcpyAsync(to, from, size, kind, 0);
}
API int cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t rows, int kind, Handle stream) {
  journal("copy %s %zu stream %zx", direction(kind), width * rows, (size_t)stream);
  for (size_t i = 0; i < rows; i++) move((char*)to + i * to_pitch, (const char*)from + i * from_pitch, width);
  return 0;
}
API int cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t rows, int kind) {
  if (int no = refused("cudaMemcpy2D")) return no;
  return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, rows, kind, 0);
}
API int cudaMemcpyFromSymbol(void* to, const void*, size_t size, size_t, int) { memset(to, 0, size); return 0; }
API int cudaMemset(void* to, int value, size_t size) {
  if (int no = refused("cudaMemset")) return no;
  journal("set %zu stream 0", size);
  if (value || size < (1 << 20)) memset(to, value, size);  // fresh pages are zeros
  return 0;
}
API int cudaMemsetAsync(void* to, int value, size_t size, Handle stream) { journal("set %zu stream %zx", size, (size_t)stream); memset(to, value, size); return 0; }

static std::atomic<size_t> streams(0x777);
API int cudaStreamCreate(Handle* s) { *s = (Handle)streams++; return 0; }
API int cudaStreamCreateWithFlags(Handle* s, unsigned) { return cudaStreamCreate(s); }
API int cudaStreamCreateWithPriority(Handle* s, unsigned, int) { return cudaStreamCreate(s); }
API int cudaStreamDestroy(Handle) { return 0; }
API int cudaStreamSynchronize(Handle) { if (int no = refused("cudaStreamSynchronize")) return no; journal("synchronise stream"); return 0; }
API int cudaDeviceSynchronize() { if (int no = refused("cudaDeviceSynchronize")) return no; journal("synchronise device"); return 0; }
API int cudaStreamWaitEvent(Handle, Handle, unsigned) { return 0; }
API int cudaStreamIsCapturing(Handle, int* state) { *state = is_capturing(); return 0; }
API int cudaStreamGetCaptureInfo(Handle, int* state, ...) { *state = is_capturing(); return 0; }
API int cudaStreamBeginCapture(Handle, int) { journal("capture begins"); capturing(1); return 0; }
API int cudaStreamEndCapture(Handle, Handle* graph) { capturing(0); journal("capture ends"); *graph = (Handle)0x99; return 0; }
API int cudaGraphInstantiate(Handle* made, Handle, unsigned long long) { *made = (Handle)0x98; return 0; }
API int cudaGraphLaunch(Handle, Handle stream) { journal("play graph stream %zx", (size_t)stream); return 0; }
API int cudaGraphDestroy(Handle) { return 0; }
API int cudaGraphExecDestroy(Handle) { return 0; }
API int cudaEventCreate(Handle* e) { *e = (Handle)0x66; return 0; }
API int cudaEventCreateWithFlags(Handle* e, unsigned) { *e = (Handle)0x66; return 0; }
API int cudaEventRecord(Handle, Handle) { return 0; }
API int cudaEventRecordWithFlags(Handle, Handle, unsigned) { return 0; }
API int cudaEventSynchronize(Handle) { if (int no = refused("cudaEventSynchronize")) return no; journal("synchronise event"); return 0; }
API int cudaEventQuery(Handle) { return 0; }
API int cudaEventDestroy(Handle) { return 0; }
API int cudaEventElapsedTime(float* ms, Handle, Handle) { *ms = 1; return 0; }

API const char* cudaGetErrorString(int status) { return status == 2 ? "out of memory" : status == 900 ? "operation not permitted when stream is capturing" : "error of the stand-in"; }
API const char* cudaGetErrorName(int status) { return status == 2 ? "cudaErrorMemoryAllocation" : status == 900 ? "cudaErrorStreamCaptureUnsupported" : "cudaErrorUnknown"; }
API int cudaGetLastError() { return 0; }
API int cudaPeekAtLastError() { return 0; }
API int cudaFuncGetAttributes(void* to, const void*) {
  memset(to, 0, 128);
  int* numbers = (int*)((char*)to + 24);
  numbers[0] = 1024, numbers[1] = 32, numbers[2] = numbers[3] = 10 * DEVICE_MAJOR + DEVICE_MINOR;
  return 0;
}
API int cudaFuncSetAttribute(const void*, int, int) { return 0; }
API int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 2; return 0; }
API int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { *n = 2; return 0; }
static int nothing() { return 0; }
API int cudaGetDriverEntryPointByVersion(const char*, void** at, unsigned, unsigned long long, int* found) { *at = (void*)nothing; if (found) *found = 0; return 0; }
API int cudaMemPoolCreate(Handle* pool, const void*) { *pool = (Handle)0x55; return 0; }
API int cudaMemPoolGetAttribute(Handle, int, void* to) { *(uint64_t*)to = 0; return 0; }
API int cudaLaunchHostFunc(Handle, void (*work)(void*), void* data) { work(data); return 0; }

// kernels: nvcc's start-up code registers their names; a launch is a line with the name
API void** __cudaRegisterFatBinary(void*) { static void* handle[4]; return handle; }
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  std::lock_guard<std::mutex> hold(lock);
  kernels[host] = name;
}
API int cudaLibraryLoadData(Handle* library, const void*, void*, void*, unsigned, void*, void*, unsigned) { *library = (Handle)0x44; return 0; }
API int cudaLibraryGetKernel(Handle* kernel, Handle, const char* name) {
  std::lock_guard<std::mutex> hold(lock);
  static std::map<std::string, char*> made;
  if (!made.count(name)) { made[name] = new char[8]; kernels[made[name]] = name; }
  *kernel = made[name];
  return 0;
}
static thread_local Size3 grid_, block_;
static thread_local size_t shared_;
static thread_local Handle stream_;
API unsigned __cudaPushCallConfiguration(Size3 grid, Size3 block, size_t shared, Handle stream) { grid_ = grid, block_ = block, shared_ = shared, stream_ = stream; return 0; }
API int __cudaPopCallConfiguration(Size3* grid, Size3* block, size_t* shared, Handle* stream) { *grid = grid_, *block = block_, *shared = shared_, *stream = stream_; return 0; }
API int __cudaGetKernel(const void** kernel, const void* host) { *kernel = host; return 0; }
static int launched(const void* kernel, Size3 grid, Handle stream) {
  std::string name;
  { std::lock_guard<std::mutex> hold(lock); auto found = kernels.find(kernel); name = found == kernels.end() ? "?" : found->second; }
  journal("kernel %.800s grid %u,%u,%u stream %zx", name.c_str(), grid.x, grid.y, grid.z, (size_t)stream);
  return 0;
}
API int cudaLaunchKernel(const void* kernel, Size3 grid, Size3, void**, size_t, Handle stream) { return launched(kernel, grid, stream); }
API int __cudaLaunchKernel(const void* kernel, Size3 grid, Size3, void**, size_t, Handle stream) { return launched(kernel, grid, stream); }
API int cudaLaunchCooperativeKernel(const void* kernel, Size3 grid, Size3, void**, size_t, Handle stream) { return launched(kernel, grid, stream); }
struct Launch { Size3 grid, block; size_t shared; Handle stream; void* attributes; unsigned count; };
API int cudaLaunchKernelExC(const Launch* how, const void* kernel, void**) { return launched(kernel, how->grid, how->stream); }
