// cuBLAS: a product is a line with its sizes and types.
#include "journal.h"
#include <cstdlib>
typedef void* Handle;
API int cublasCreate_v2(Handle* h) { *h = calloc(1, 8); return 0; }
API int cublasSetStream_v2(size_t* h, size_t stream) { *h = stream; return 0; }
API int cublasDestroy_v2(Handle h) { free(h); return 0; }
API int cublasGetMathMode(Handle, int* mode) { *mode = 0; return 0; }
API const char* cublasGetStatusName(int) { return "status of the stand-in"; }
API const char* cublasGetStatusString(int) { return "status of the stand-in"; }
API int cublasGemmEx(const size_t* h, int, int, int m, int n, int k, const void*, const void*, int a, int, const void*, int b, int, const void*, void*, int c, int, int, int) { journal("product %d %d %d types %d,%d,%d stream %zx", m, n, k, a, b, c, *h); return 0; }
API int cublasGemmStridedBatchedEx(const size_t* h, int, int, int m, int n, int k, const void*, const void*, int a, int, long long, const void*, int b, int, long long, const void*, void*, int c, int, long long, int batch, int, int) { journal("product %d %d %d types %d,%d,%d times %d stream %zx", m, n, k, a, b, c, batch, *h); return 0; }
API int cublasGemmBatchedEx(const size_t* h, int, int, int m, int n, int k, const void*, const void* const*, int a, int, const void* const*, int b, int, const void*, void* const*, int c, int, int batch, int, int) { journal("product %d %d %d types %d,%d,%d times %d stream %zx", m, n, k, a, b, c, batch, *h); return 0; }
API int cublasSgemm_v2(const size_t* h, int, int, int m, int n, int k) { journal("product %d %d %d types 0,0,0 stream %zx", m, n, k, *h); return 0; }
API int cublasHgemm(const size_t* h, int, int, int m, int n, int k) { journal("product %d %d %d types 2,2,2 stream %zx", m, n, k, *h); return 0; }
API int cublasSgemmStridedBatched(const size_t* h, int, int, int m, int n, int k) { journal("product %d %d %d types 0,0,0 batched stream %zx", m, n, k, *h); return 0; }
API int cublasHgemmStridedBatched(const size_t* h, int, int, int m, int n, int k) { journal("product %d %d %d types 2,2,2 batched stream %zx", m, n, k, *h); return 0; }
