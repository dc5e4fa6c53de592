// The ring that the producer and the consumers walk in step, and waiting on its barriers.
#pragma once

#include "ptx.cuh"

// Position in a ring of kSize stages. A consumer waits for the full barrier with `phase`, a
// producer for the empty barrier with `phase ^ 1`: a fresh barrier lets the first round through.
template <u32 kSize>
struct Ring {
  u32 stage = 0;
  u32 phase = 0;

  // Takes at most once round.
  KILN_DEVICE void advance(u32 steps = 1) {
    stage += steps;
    if (stage >= kSize) {
      stage -= kSize;
      phase ^= 1;
    }
  }
};

KILN_DEVICE void wait(u32 barrier, u32 parity) {
  while (!mbarrier_try_wait_parity(barrier, parity)) {
  }
}

// For what another CTA of the cluster has written.
KILN_DEVICE void wait_cluster(u32 barrier, u32 parity) {
  while (!mbarrier_try_wait_parity_cluster(barrier, parity)) {
  }
}
