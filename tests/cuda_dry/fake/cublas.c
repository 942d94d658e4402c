// libcublas: matmuls are nodes whose lines say their shapes, types and arithmetic.
#include <stdio.h>
#include <stdlib.h>

#include "fake.h"

struct Handle {
    void* stream;
    int mode;
};

int cublasCreate_v2(struct Handle** handle) {
    *handle = calloc(1, sizeof **handle);
    return 0;
}

int cublasDestroy_v2(struct Handle* handle) {
    free(handle);
    return 0;
}

int cublasSetStream_v2(struct Handle* handle, void* stream) {
    handle->stream = stream;
    return 0;
}

int cublasGetMathMode(struct Handle* handle, int* mode) {
    *mode = handle->mode;
    return 0;
}

int cublasSetMathMode(struct Handle* handle, int mode) {
    handle->mode = mode;
    return 0;
}

int cublasSgemm_v2(struct Handle* handle, int transa, int transb, int m, int n, int k) {
    char line[120];
    snprintf(line, sizeof line, "cublasSgemm m %d n %d k %d mode %d", m, n, k, handle->mode);
    fake_node(handle->stream, line);
    return 0;
}

int cublasGemmEx(struct Handle* handle, int transa, int transb, int m, int n, int k, void* alpha, void* a, int type_a,
                 int lda, void* b, int type_b, int ldb, void* beta, void* c, int type_c, int ldc, int compute, int algo) {
    char line[160];
    snprintf(line, sizeof line, "cublasGemmEx m %d n %d k %d types %d %d %d compute %d mode %d", m, n, k, type_a, type_b,
             type_c, compute, handle->mode);
    fake_node(handle->stream, line);
    return 0;
}

#define NODE(name) \
    int name(struct Handle* handle) { \
        fake_node(handle->stream, #name); \
        return 0; \
    }
NODE(cublasDgemmBatched)
NODE(cublasDgemmStridedBatched)
NODE(cublasDgemm_v2)
NODE(cublasGemmBatchedEx)
NODE(cublasGemmStridedBatchedEx)
NODE(cublasScopy_v2)
NODE(cublasSgeam)
NODE(cublasSgemmBatched)
NODE(cublasSgemmStridedBatched)
NODE(cublasSscal_v2)

STUB(cublasDgeam)
STUB(cublasDgetrfBatched)
STUB(cublasDgetriBatched)
STUB(cublasGetStatusName)
STUB(cublasGetStatusString)
STUB(cublasSgetrfBatched)
STUB(cublasSgetriBatched)
