/* A service that may not compile, as its users would write it: against the shared library, over
 * whatever driver the loader finds.
 *
 *   frozen_consumer N K     dense, every M from 1 to 65536 by powers of two
 *   frozen_consumer casts   every cast that kiln_quantizer_create() accepts
 *   frozen_consumer offline as casts, without a device: prepared only
 *
 * Freezes its engine, prepares every kernel, launches, and prints "launches hits misses compiles
 * directory_hits layer_hits[0]"; offline counts what is prepared as launches. Exit code: 0, or the
 * status of the call that failed, with its text on stderr. */
#include <inttypes.h>
#include <kiln.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int64_t run_gemms(kiln_engine* engine, int64_t n, int64_t k) {
  kiln_problem problem = KILN_PROBLEM_INIT;
  kiln_plan* plan = NULL;
  int64_t m = 1, launches = 0;
  problem.n = n;
  problem.k = k;
  check(kiln_plan_create(engine, &problem, NULL, &plan));
  check(kiln_plan_prepare(plan, 0, INT64_MAX));
  for (; m <= 65536; m *= 2, ++launches) {
    const kiln_operands operands = operands_of(&problem, m);
    check(kiln_launch(plan, &operands, NULL));
  }
  kiln_plan_destroy(plan);
  return launches;
}

/* One square matrix, and for a two-way cast its transpose. */
static kiln_quantize_operands cast_operands(const kiln_quantize_problem* problem) {
  kiln_quantize_operands operands = KILN_QUANTIZE_OPERANDS_INIT;
  operands.rows = operands.cols = 128;
  operands.in = at(0x10000000);
  operands.out = at(0x20000000);
  operands.scales = at(0x30000000);
  operands.ld_in = operands.ld_out = operands.ld_scales = 128;
  if (!problem->two_way) return operands;
  operands.out_t = at(0x40000000);
  operands.scales_t = at(0x50000000);
  operands.ld_out_t = operands.ld_scales_t = 128;
  return operands;
}

static int64_t run_cast(kiln_engine* engine, const kiln_quantize_problem* problem, int offline) {
  const kiln_quantize_operands operands = cast_operands(problem);
  kiln_quantizer* quantizer = NULL;
  const kiln_status status = kiln_quantizer_create(engine, problem, &quantizer);
  if (status == KILN_ERROR_INVALID_ARGUMENT) return 0;
  check(status);
  check(kiln_quantizer_prepare(quantizer));
  if (!offline) check(kiln_quantize(quantizer, &operands, NULL));
  kiln_quantizer_destroy(quantizer);
  return 1;
}

static int64_t run_casts(kiln_engine* engine, int offline) {
  static const int32_t kTypes[] = {KILN_TYPE_E4M3, KILN_TYPE_E5M2, KILN_TYPE_BF16, KILN_TYPE_F32};
  int64_t launches = 0;
  int i;
  for (i = 0; i < 4 * 4 * 16; ++i) {
    kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
    problem.in_type = kTypes[i / 64];
    problem.out_type = kTypes[i / 16 % 4];
    problem.granularity = i / 8 % 2 ? KILN_SCALE_128X128 : KILN_SCALE_1X128;
    problem.scale_major = i / 4 % 2 ? KILN_SCALE_M_MAJOR : KILN_SCALE_ROW_MAJOR;
    problem.power_of_two = i / 2 % 2;
    problem.two_way = i % 2;
    launches += run_cast(engine, &problem, offline);
  }
  return launches;
}

int main(int argc, char** argv) {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  kiln_cache_statistics stats = KILN_CACHE_STATISTICS_INIT;
  kiln_engine* engine = NULL;
  const int casts = argc == 2, offline = casts && strcmp(argv[1], "offline") == 0;
  int64_t launches;
  if (argc != 3 && !casts) return 100;
  if (casts && !offline && strcmp(argv[1], "casts") != 0) return 100;
  options.device = 0;
  if (offline) {
    options.device = KILN_DEVICE_NONE;
    options.arch = 90;
    options.num_sms = 132;
  }
  check(kiln_engine_create(&options, &engine));
  check(kiln_engine_freeze(engine));
  launches = casts ? run_casts(engine, offline) : run_gemms(engine, atoi(argv[1]), atoi(argv[2]));
  check(kiln_cache_stats(engine, &stats));
  printf("%" PRId64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", launches,
         stats.hits, stats.misses, stats.compiles, stats.directory_hits, stats.layer_hits[0]);
  kiln_engine_destroy(engine);
  return 0;
}
