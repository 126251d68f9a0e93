// SPDX-License-Identifier: Apache-2.0
// The headers that vector.inl.h needs; to be included before each_isa.inl.h, outside its namespaces and pragmas.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "isa.h"

#if defined(MR_INSTRUCTION_SETS)
#include <immintrin.h>
#endif
