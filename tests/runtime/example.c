/* Kiln from C with nothing else: cast two BF16 matrices to FP8, multiply them, look at the result.
 *
 * Device memory comes from the driver API, which is opened at run time as Kiln itself does, so this
 * program builds without CUDA and starts on a machine without a GPU. There it shows what it can:
 * the tile that a launch would use and, where NVRTC is found, the compiled kernel.
 */
#include <dlfcn.h>
#include <kiln.h>
#include <stdio.h>
#include <stdlib.h>

enum { M = 64, N = 128, K = 256 };

static void check(kiln_status status, const char* what) {
  if (status == KILN_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, kiln_status_string(status), kiln_last_error());
  exit(1);
}

/* ---- The few driver calls that device memory takes ---- */

typedef unsigned long long device_address;
static struct {
  int (*retain)(void** context, int device);
  int (*set_current)(void* context);
  int (*allocate)(device_address* address, size_t bytes);
  int (*to_device)(device_address to, const void* from, size_t bytes);
  int (*to_host)(void* to, device_address from, size_t bytes);
} cuda;

/* ISO C has no conversion from void* to a function pointer; POSIX promises that this works. */
static void bind(void* library, const char* name, void* function) {
  void* symbol = dlsym(library, name);
  if (symbol == NULL) {
    fprintf(stderr, "the CUDA driver lacks %s\n", name);
    exit(1);
  }
  *(void**)function = symbol;
}

static void open_driver(int device) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  void* context = NULL;
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  bind(library, "cuDevicePrimaryCtxRetain", &cuda.retain);
  bind(library, "cuCtxSetCurrent", &cuda.set_current);
  bind(library, "cuMemAlloc_v2", &cuda.allocate);
  bind(library, "cuMemcpyHtoD_v2", &cuda.to_device);
  bind(library, "cuMemcpyDtoH_v2", &cuda.to_host);
  if (cuda.retain(&context, device) != 0 || cuda.set_current(context) != 0) {
    fprintf(stderr, "device %d has no usable context\n", device);
    exit(1);
  }
}

static void* device_memory(size_t bytes) {
  device_address address = 0;
  if (cuda.allocate(&address, bytes) != 0) {
    fprintf(stderr, "no device memory\n");
    exit(1);
  }
  return (void*)(uintptr_t)address;
}

/* rows x K ones as BF16, in device memory. */
static void* ones(int rows) {
  static uint16_t host[N * K];
  void* device = device_memory((size_t)rows * K * 2);
  for (int i = 0; i < rows * K; ++i) host[i] = 0x3f80;
  if (cuda.to_device((uintptr_t)device, host, (size_t)rows * K * 2) != 0) exit(1);
  return device;
}

/* ---- Kiln ---- */

struct fp8_matrix {
  void* values;
  float* scales;
};

/* Casts ones to FP8: 1x128 scales for A, 128x128 for B. NULL is the default stream. */
static struct fp8_matrix cast(kiln_engine* engine, int rows, int granularity) {
  kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
  kiln_quantize_operands operands = KILN_QUANTIZE_OPERANDS_INIT;
  kiln_quantizer* quantizer = NULL;
  struct fp8_matrix result;
  problem.granularity = granularity;
  check(kiln_quantizer_create(engine, &problem, &quantizer), "kiln_quantizer_create");
  result.values = device_memory((size_t)rows * K);
  result.scales = device_memory((size_t)rows * (K / 128) * sizeof(float));
  operands.rows = rows;
  operands.cols = operands.ld_in = operands.ld_out = K;
  operands.in = ones(rows);
  operands.out = result.values;
  operands.scales = result.scales;
  operands.ld_scales = K / 128;
  check(kiln_quantize(quantizer, &operands, NULL), "kiln_quantize");
  kiln_quantizer_destroy(quantizer);
  return result;
}

/* Every element of D must be K. BF16 is the upper half of an FP32. */
static int multiply(kiln_engine* engine, kiln_plan* plan) {
  static uint16_t d[M * N];
  const struct fp8_matrix a = cast(engine, M, KILN_SCALE_1X128);
  const struct fp8_matrix b = cast(engine, N, KILN_SCALE_128X128);
  kiln_operands operands = KILN_OPERANDS_INIT;
  operands.m = M;
  operands.a = a.values;
  operands.b = b.values;
  operands.lda = operands.ldb = K;
  operands.sfa = a.scales;
  operands.sfb = b.scales;
  operands.ld_sfa = operands.ld_sfb = K / 128;
  operands.d = device_memory(sizeof(d));
  operands.ldd = N;
  check(kiln_launch(plan, &operands, NULL), "kiln_launch");
  if (cuda.to_host(d, (uintptr_t)operands.d, sizeof(d)) != 0) {
    fprintf(stderr, "the kernels failed\n");
    return 1;
  }
  for (int i = 0; i < M * N; ++i) {
    if (d[i] != 0x4380) { /* 256 */
      fprintf(stderr, "d[%d] has the bits %04x instead of those of %d\n", i, d[i], K);
      return 1;
    }
  }
  printf("D[%d,%d] = A[%d,%d] * B[%d,%d]^T: every element is %d, as it must be\n", M, N, M, K, N, K, K);
  return 0;
}

int main(void) {
  kiln_probe_report machine = KILN_PROBE_REPORT_INIT;
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  kiln_problem problem = KILN_PROBLEM_INIT;
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  kiln_engine* engine = NULL;
  kiln_plan* plan = NULL;
  int result = 0;

  check(kiln_probe(NULL, &machine), "kiln_probe");
  options.device = machine.hopper_device >= 0 ? machine.hopper_device : KILN_DEVICE_NONE;
  if (options.device == KILN_DEVICE_NONE) { /* plan and compile for an H200 */
    options.arch = 90;
    options.num_sms = 132;
    printf("no Hopper GPU here: %s\n",
           machine.has_driver ? machine.device_message : machine.driver_message);
  } else {
    open_driver(options.device);
  }
  check(kiln_engine_create(&options, &engine), "kiln_engine_create");
  problem.n = N;
  problem.k = K;
  check(kiln_plan_create(engine, &problem, NULL, &plan), "kiln_plan_create");
  if (machine.has_compiler) {
    check(kiln_plan_prepare(plan, M, M), "kiln_plan_prepare");
  } else {
    printf("no compiler here: %s\n", machine.compiler_message);
  }
  check(kiln_plan_describe(plan, M, &description), "kiln_plan_describe");
  printf("%s\n", description.reason);
  if (description.ready) {
    printf("%d registers, %lld bytes of shared memory\n", (int)description.registers,
           (long long)description.dynamic_smem_bytes);
  }
  if (options.device != KILN_DEVICE_NONE) result = multiply(engine, plan);
  kiln_plan_destroy(plan);
  kiln_engine_destroy(engine);
  return result;
}
