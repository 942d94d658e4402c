// libcublasLt.
#include <stdlib.h>
#include <string.h>

#include "fake.h"

// More than any of its opaque structures has.
enum { OPAQUE = 256, HEURISTIC = 96 };

static int create(void** object) {
    *object = calloc(1, OPAQUE);
    return 0;
}

int cublasLtCreate(void** handle) { return create(handle); }
int cublasLtMatmulDescCreate(void** description) { return create(description); }
int cublasLtMatrixLayoutCreate(void** layout) { return create(layout); }
int cublasLtMatmulPreferenceCreate(void** preference) { return create(preference); }

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                                   int wanted, void* results, int* found) {
    memset(results, 0, HEURISTIC);
    *found = 1;
    fake_note("cublasLtMatmulAlgoGetHeuristic");
    return 0;
}

int cublasLtMatmul(void* handle, void* operation, void* alpha, void* a, void* layout_a, void* b, void* layout_b, void* beta,
                   void* c, void* layout_c, void* d, void* layout_d, void* algorithm, void* workspace, size_t bytes,
                   void* stream) {
    fake_node(stream, "cublasLtMatmul");
    return 0;
}

STUB(cublasLtDestroy)
STUB(cublasLtMatmulAlgoConfigSetAttribute)
STUB(cublasLtMatmulAlgoInit)
STUB(cublasLtMatmulDescDestroy)
STUB(cublasLtMatmulDescSetAttribute)
STUB(cublasLtMatmulPreferenceDestroy)
STUB(cublasLtMatmulPreferenceSetAttribute)
STUB(cublasLtMatrixLayoutDestroy)
STUB(cublasLtMatrixLayoutSetAttribute)
STUB(cublasLtMatrixTransform)
STUB(cublasLtMatrixTransformDescCreate)
STUB(cublasLtMatrixTransformDescDestroy)
