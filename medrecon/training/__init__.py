# SPDX-License-Identifier: Apache-2.0
"""Training our own SuperPoint and SuperGlue: data made on the training device, losses, schedules, validation.

What trains, renders, draws pairs, validates or resumes needs torch, numpy and the standard library alone, so that it
runs on a bare GPU machine; building shards, reading YAML and the command line need the rest of medrecon.
"""
