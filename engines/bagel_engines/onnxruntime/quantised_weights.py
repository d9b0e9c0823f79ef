"""Session settings for graphs with quantised weights, on the CPU and on CUDA."""

from __future__ import annotations

# How matrix products with int8 and int4 weights are computed (measured with 1.31.1). MatMulNBits of accuracy level 4
# rounds the activations to 8 bits in blocks too: fast, but not what the graph says, so only on request (ROUNDED).
# Level 1 keeps float32 activations, but has no kernel for 8-bit weights: a token takes 30 times as long. So without
# that request weights become float32 when a graph is loaded (PLAIN), which takes four to eight times their memory.
ROUNDED = {"session.qdq_matmulnbits_accuracy_level": "4"}
PLAIN = {"session.disable_quant_qdq": "1"}
# ROWS rounds rows as a whole and computes in integers (rounded_rows); what that leaves is as PLAIN has it.
# This one joins a product and the addition after it to a Gemm, and then no longer sees that its weights are quantised:
# 1.31.1 unpacked every down projection anew in each call, which was nine tenths of a token's time.
HIDES_QUANTISED_WEIGHTS = ["MatMulAddFusion"]
