// libcuda, the driver.
#include "fake.h"

STUB(cuTensorMapEncodeTiled)
