// SPDX-License-Identifier: Apache-2.0
// Raw-pointer entry point of the fused field on a GPU, for float and double; the arrays are those of cpu/field.h, on the
// device. stream is a cudaStream_t. Returns a cudaError_t as int (0: launched). Nothing synchronises with the host.
#pragma once

#include <cstdint>

#include "../cpu/field.h"

namespace medrecon::cuda {

using cpu::FieldTask;  // with pointers to the device

// What multiplies floats: ordinary instructions, or matrix units with factors rounded to 11 or 8 significant bits, which sum
// in float. Doubles are always exact.
enum class FieldPrecision { kExact, kTf32, kBf16 };

// Larger networks, whose activations are more than a block can share, are not computed.
inline bool field_fits(const FieldShape& shape) {
  return shape.width <= 128 && shape.layers <= 4 && shape.colour_width <= 128 && shape.degrees <= 16;
}

// Bytes of work space, aligned to 16, that fused_field needs.
template <typename T>
int64_t field_work_size(const FieldShape& shape, const FieldTask<T>& task, FieldPrecision precision);

template <typename T>
int fused_field(void* stream, const FieldShape& shape, const FieldTask<T>& task, FieldPrecision precision, void* work);

}  // namespace medrecon::cuda
