// SPDX-License-Identifier: Apache-2.0
// The network of a fused field: its sizes, and where each matrix lies among the flat parameters (nn.Linear's layout, row-major).
#pragma once

#include "hd.h"

namespace medrecon {

struct FieldShape {
  int64_t min_deg, degrees;  // octaves of the encoding: 2^min_deg ... 2^(min_deg + degrees - 1)
  int64_t width, layers;     // of the trunk
  int64_t colour_width;
  double density_shift, density_gain;  // density = gain * softplus(raw + shift)
  int64_t features = 0;                // inputs of the network where they come from elsewhere; 0: from the encoding

  MR_HD int64_t inputs() const { return features > 0 ? features : 6 * degrees; }
  MR_HD int64_t inputs(int64_t layer) const { return layer == 0 ? inputs() : width; }

  // Each is followed by the next; the bias of the colour's first matrix comes with the ray.
  MR_HD int64_t trunk_weight(int64_t layer) const {  // [width, inputs(layer)]
    return layer == 0 ? 0 : (inputs() + 1) * width + (layer - 1) * (width + 1) * width;
  }
  MR_HD int64_t trunk_bias(int64_t layer) const { return trunk_weight(layer) + inputs(layer) * width; }  // [width]
  MR_HD int64_t density_weight() const { return trunk_weight(layers); }                                  // [width]
  MR_HD int64_t density_bias() const { return density_weight() + width; }                                // [1]
  MR_HD int64_t colour_weight() const { return density_bias() + 1; }                      // [colour_width, width]
  MR_HD int64_t head_weight() const { return colour_weight() + colour_width * width; }    // [3, colour_width]
  MR_HD int64_t head_bias() const { return head_weight() + 3 * colour_width; }            // [3]
  MR_HD int64_t parameters() const { return head_bias() + 3; }
};

}  // namespace medrecon
