/* A service that may not compile, as its users would write it: against the shared library, over
 * whatever driver the loader finds.
 *
 *   frozen_consumer N K    dense, every M from 1 to 65536 by powers of two
 *
 * Freezes its engine, prepares every kernel of the problem, launches, and prints "launches hits
 * misses compiles directory_hits layer_hits[0]". Exit code: 0, or the status of the call that
 * failed, with its text on stderr. */
#include <inttypes.h>
#include <kiln.h>
#include <stdio.h>
#include <stdlib.h>

static void check(kiln_status status) {
  if (status == KILN_OK) return;
  fprintf(stderr, "%s: %s\n", kiln_status_string(status), kiln_last_error());
  exit(status);
}

/* Nothing reads through these on the fake driver. */
static void* at(uintptr_t address) { return (void*)address; }

static kiln_operands operands_of(const kiln_problem* problem, int64_t m) {
  kiln_operands operands = KILN_OPERANDS_INIT;
  operands.m = m;
  operands.a = at(0x10000000);
  operands.b = at(0x20000000);
  operands.sfa = at(0x30000000);
  operands.sfb = at(0x40000000);
  operands.d = at(0x50000000);
  operands.lda = operands.ldb = problem->k;
  operands.ld_sfa = operands.ld_sfb = (problem->k + 127) / 128;
  operands.ldd = problem->n;
  return operands;
}

int main(int argc, char** argv) {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  kiln_problem problem = KILN_PROBLEM_INIT;
  kiln_cache_statistics stats = KILN_CACHE_STATISTICS_INIT;
  kiln_engine* engine = NULL;
  kiln_plan* plan = NULL;
  int64_t m = 1, launches = 0;
  if (argc != 3) return 100;
  options.device = 0;
  problem.n = atoi(argv[1]);
  problem.k = atoi(argv[2]);
  check(kiln_engine_create(&options, &engine));
  check(kiln_engine_freeze(engine));
  check(kiln_plan_create(engine, &problem, NULL, &plan));
  check(kiln_plan_prepare(plan, 0, INT64_MAX));
  for (; m <= 65536; m *= 2, ++launches) {
    const kiln_operands operands = operands_of(&problem, m);
    check(kiln_launch(plan, &operands, NULL));
  }
  check(kiln_cache_stats(engine, &stats));
  printf("%" PRId64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", launches,
         stats.hits, stats.misses, stats.compiles, stats.directory_hits, stats.layer_hits[0]);
  kiln_plan_destroy(plan);
  kiln_engine_destroy(engine);
  return 0;
}
