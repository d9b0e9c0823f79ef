// cuDNN as far as convolutions, softmax and reductions ask for it. Its backend descriptors are empty things that are
// always ready; a list that is asked for has one of them.
#include "journal.h"
#include <cstdint>
#include <cstdlib>
typedef void* Handle;
API size_t cudnnGetVersion() { return 91900; }
API const char* cudnnGetErrorString(int) { return "status of the stand-in"; }
API void cudnnGetLastErrorString(char* to, size_t room) { if (room) *to = 0; }
static int made(Handle* h) { *h = calloc(1, 64); return 0; }
API int cudnnCreate(Handle* h) { return made(h); }
API int cudnnCreateTensorDescriptor(Handle* h) { return made(h); }
API int cudnnCreateFilterDescriptor(Handle* h) { return made(h); }
API int cudnnCreateConvolutionDescriptor(Handle* h) { return made(h); }
API int cudnnCreateActivationDescriptor(Handle* h) { return made(h); }
API int cudnnCreateReduceTensorDescriptor(Handle* h) { return made(h); }
API int cudnnSetStream(size_t* h, size_t stream) { *h = stream; return 0; }
API int cudnnGetStream(const size_t* h, size_t* stream) { *stream = *h; return 0; }
API int cudnnBackendExecute(const size_t* h, Handle, Handle) { journal("convolution stream %zx", *h); return 0; }
API int cudnnConvolutionForward(const size_t* h) { journal("convolution stream %zx", *h); return 0; }
API int cudnnReduceTensor(const size_t* h) { journal("reduction stream %zx", *h); return 0; }
API int cudnnSoftmaxForward(const size_t* h) { journal("softmax stream %zx", *h); return 0; }
API int cudnnGetReductionWorkspaceSize(Handle, Handle, Handle, Handle, size_t* size) { *size = 0; return 0; }
API int cudnnGetReductionIndicesSize(Handle, Handle, Handle, Handle, size_t* size) { *size = 0; return 0; }
API int cudnnBackendCreateDescriptor(int, Handle* made) { *made = calloc(1, 64); return 0; }
API int cudnnBackendDestroyDescriptor(Handle h) { free(h); return 0; }
// wanted: how many elements fit in `to`. Descriptors (15) and sizes (3, 23) there is one of, notes on engines none.
API int cudnnBackendGetAttribute(Handle, int, int type, int64_t wanted, int64_t* count, void* to) {
  if (count) *count = type == 15 || type == 3 || type == 23;
  if (to && wanted && type == 3) *(int64_t*)to = 0;  // of workspaces
  if (to && wanted && type == 23) *(int32_t*)to = 0;  // of shared memory
  return 0;
}
