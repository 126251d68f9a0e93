// SPDX-License-Identifier: Apache-2.0
// All operators as one file for the compiler: reading torch's headers takes it five seconds, an operator itself half of one.
#include "cast_rays_op.inl.h"
#include "composite_op.inl.h"
#include "composite_packed_op.inl.h"
#include "encoding_op.inl.h"
#include "field_op.inl.h"
#include "fused_grid_op.inl.h"
#include "grid_op.inl.h"
#include "lazy_adam_op.inl.h"
#include "march_op.inl.h"
#include "resample_op.inl.h"
#include "sinkhorn_op.inl.h"
