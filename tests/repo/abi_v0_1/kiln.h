/* The C API of version 0.1 as programs were compiled against it, without its comments. Frozen: what is
 * here never changes. A release that adds to the API adds a copy of its own beside this one. */
#ifndef KILN_H_
#define KILN_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KILN_API __attribute__((visibility("default")))
#else
#define KILN_API
#endif

#define KILN_VERSION_MAJOR 0
#define KILN_VERSION_MINOR 1
#define KILN_VERSION_PATCH 0

typedef int32_t kiln_status;
enum {
  KILN_OK = 0,
  KILN_ERROR_INVALID_ARGUMENT = 1,
  KILN_ERROR_UNSUPPORTED = 2,
  KILN_ERROR_NO_COMPILER = 3,
  KILN_ERROR_COMPILE_FAILED = 4,
  KILN_ERROR_NO_DRIVER = 5,
  KILN_ERROR_NO_DEVICE = 6,
  KILN_ERROR_NOT_READY = 7,
  KILN_ERROR_FROZEN = 8,
  KILN_ERROR_CAPTURING = 9,
  KILN_ERROR_DRIVER = 10,
  KILN_ERROR_OUT_OF_MEMORY = 11,
  KILN_ERROR_FORKED = 12,
  KILN_ERROR_INTERNAL = 13
};

KILN_API const char* kiln_status_string(kiln_status status);

KILN_API const char* kiln_last_error(void);

KILN_API size_t kiln_last_error_copy(char* buffer, size_t size);

KILN_API void kiln_version(int32_t* major, int32_t* minor, int32_t* patch);

KILN_API const char* kiln_build_info(void);

typedef struct kiln_probe_report {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t has_compiler;
  int32_t compiler_major;
  int32_t compiler_minor;
  int32_t has_driver;
  int32_t driver_version;
  int32_t device_count;
  int32_t hopper_device;
  int32_t hopper_num_sms;
  char compiler_path[512];
  char compiler_message[1024];
  char driver_path[512];
  char driver_message[1024];
  char device_name[128];
  char device_message[1024];
} kiln_probe_report;
#define KILN_PROBE_REPORT_INIT \
  {sizeof(kiln_probe_report), 1, 0, 0, 0, 0, 0, 0, 0, 0, "", "", "", "", "", ""}

KILN_API kiln_status kiln_probe(const char* nvrtc_path, kiln_probe_report* report);

typedef struct kiln_engine kiln_engine;
typedef struct kiln_plan kiln_plan;
typedef struct kiln_quantizer kiln_quantizer;

struct CUstream_st;
typedef struct CUstream_st* kiln_stream;

enum {
  KILN_DEVICE_NONE = -1,
  KILN_DEVICE_CURRENT = -2
};

enum {
  KILN_MISS_DEFAULT = 0,
  KILN_MISS_BLOCK = 1,
  KILN_MISS_NOT_READY = 2,
  KILN_MISS_FROZEN = 3
};

enum {
  KILN_LOG_DEFAULT = 0,
  KILN_LOG_OFF = 1,
  KILN_LOG_ERROR = 2,
  KILN_LOG_WARNING = 3,
  KILN_LOG_INFO = 4,
  KILN_LOG_DEBUG = 5
};

enum {
  KILN_CHECK_DEFAULT = 0,
  KILN_CHECK_OFF = 1,
  KILN_CHECK_ON = 2
};

typedef void (*kiln_log_callback)(int32_t level, const char* message, void* user);

typedef struct kiln_engine_options {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t device;
  int32_t arch;
  int32_t num_sms;
  int32_t miss_policy;
  int32_t log_level;
  int32_t check_groups;
  const char* cache_dir;
  const char* cache_path;
  const char* nvrtc_path;
  kiln_log_callback log_callback;
  void* log_user;
  const char* tuned_path;
} kiln_engine_options;
#define KILN_ENGINE_OPTIONS_INIT                                                                \
  {sizeof(kiln_engine_options), 1, KILN_DEVICE_CURRENT, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, \
   NULL, NULL}

KILN_API kiln_status kiln_engine_create(const kiln_engine_options* options, kiln_engine** engine);
KILN_API void kiln_engine_destroy(kiln_engine* engine);

enum {
  KILN_LAYOUT_DENSE = 0,
  KILN_LAYOUT_GROUPED_CONTIGUOUS = 1,
  KILN_LAYOUT_GROUPED_MASKED = 2,
  KILN_LAYOUT_GROUPED_K = 3
};
enum {
  KILN_SCALING_1D2D = 0,
  KILN_SCALING_1D1D = 1
};
enum { KILN_TYPE_E4M3 = 0, KILN_TYPE_E5M2 = 1, KILN_TYPE_BF16 = 2, KILN_TYPE_F32 = 3 };
enum { KILN_SCALE_ROW_MAJOR = 0, KILN_SCALE_M_MAJOR = 1 };

enum {
  KILN_GROUPS_NONE = 0,
  KILN_GROUPS_LABELS = 1,
  KILN_GROUPS_ENDS = 2,
  KILN_GROUPS_ROWS = 3,
  KILN_GROUPS_PACKED = 4
};

typedef struct kiln_problem {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t layout;
  int32_t scaling;
  int64_t n;
  int64_t k;
  int32_t a_type;
  int32_t b_type;
  int32_t d_type;
  int32_t sfa_major;
  int32_t accumulate;
  int32_t group_form;
  int32_t groups;
  int32_t alignment;
  int32_t batch_invariant;
  int32_t reserved;
} kiln_problem;
#define KILN_PROBLEM_INIT {sizeof(kiln_problem), 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0}

typedef struct kiln_tile {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t block_m, block_n;
  int32_t warpgroups_m, warpgroups_n;
  int32_t stages;
  int32_t cluster_m, cluster_n;
  int32_t raster_group;
} kiln_tile;
#define KILN_TILE_INIT {sizeof(kiln_tile), 1, 128, 128, 2, 1, 4, 1, 1, 8}

KILN_API kiln_status kiln_plan_create(kiln_engine* engine, const kiln_problem* problem,
                                      const kiln_tile* tile, kiln_plan** plan);
KILN_API void kiln_plan_destroy(kiln_plan* plan);

KILN_API kiln_status kiln_plan_prepare(kiln_plan* plan, int64_t m_min, int64_t m_max);

typedef struct kiln_plan_description {
  uint32_t struct_size;
  uint32_t struct_version;
  kiln_tile tile;
  int64_t m_min, m_max;
  int32_t source;
  int32_t ready;
  int32_t from_disk;
  int32_t registers;
  int32_t spill_bytes;
  int32_t threads;
  int64_t dynamic_smem_bytes;
  int64_t cubin_bytes;
  double compile_ms;
  double estimate_us;
  char key[72];
  char reason[256];
} kiln_plan_description;
#define KILN_PLAN_DESCRIPTION_INIT \
  {sizeof(kiln_plan_description), 1, KILN_TILE_INIT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "", ""}

KILN_API kiln_status kiln_plan_describe(const kiln_plan* plan, int64_t m,
                                        kiln_plan_description* description);

typedef struct kiln_operands {
  uint32_t struct_size;
  uint32_t struct_version;
  int64_t m;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  const float* sfa;
  int64_t ld_sfa;
  const float* sfb;
  int64_t ld_sfb;
  void* d;
  int64_t ldd;
  int32_t num_sms;
  uint32_t flags;
  int64_t k;
  const int32_t* grouping;
  const int32_t* expert_map;
  int32_t num_slices;
  int32_t reserved;
  const int32_t* host_group_k;
  int64_t expected_m;
  int64_t a_group_stride;
  int64_t b_group_stride;
  int64_t sfa_group_stride;
  int64_t sfb_group_stride;
  int64_t d_group_stride;
} kiln_operands;
#define KILN_OPERANDS_INIT                                                                       \
  {sizeof(kiln_operands), 1, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, 0, 0, -1, NULL, NULL, \
   0, 0, NULL, 0, 0, 0, 0, 0, 0}

enum {

  KILN_LAUNCH_PROGRAMMATIC = 1u,

  KILN_LAUNCH_ZERO_PADDING = 2u
};

KILN_API kiln_status kiln_launch(const kiln_plan* plan, const kiln_operands* operands,
                                 kiln_stream stream);

enum { KILN_SCALE_1X128 = 0, KILN_SCALE_128X128 = 1 };

typedef struct kiln_quantize_problem {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t in_type;
  int32_t out_type;
  int32_t granularity;
  int32_t scale_major;
  int32_t power_of_two;
  int32_t two_way;
} kiln_quantize_problem;
#define KILN_QUANTIZE_PROBLEM_INIT {sizeof(kiln_quantize_problem), 1, 2, 0, 0, 0, 0, 0}

typedef struct kiln_quantize_operands {
  uint32_t struct_size;
  uint32_t struct_version;
  int64_t rows;
  int64_t cols;
  const void* in;
  int64_t ld_in;
  void* out;
  int64_t ld_out;
  float* scales;
  int64_t ld_scales;
  void* out_t;
  int64_t ld_out_t;
  float* scales_t;
  int64_t ld_scales_t;
} kiln_quantize_operands;
#define KILN_QUANTIZE_OPERANDS_INIT \
  {sizeof(kiln_quantize_operands), 1, 0, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0}

KILN_API kiln_status kiln_quantizer_create(kiln_engine* engine,
                                           const kiln_quantize_problem* problem,
                                           kiln_quantizer** quantizer);
KILN_API void kiln_quantizer_destroy(kiln_quantizer* quantizer);

KILN_API kiln_status kiln_quantizer_prepare(kiln_quantizer* quantizer);
KILN_API kiln_status kiln_quantize(const kiln_quantizer* quantizer,
                                   const kiln_quantize_operands* operands, kiln_stream stream);

enum {
  KILN_CACHE_USABLE = 0,
  KILN_CACHE_DISABLED = 1,
  KILN_CACHE_READ_ONLY = 2,
  KILN_CACHE_UNTRUSTED = 3,
  KILN_CACHE_UNUSABLE = 4
};

typedef struct kiln_cache_statistics {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t state;
  int32_t reserved;
  uint64_t hits, misses;
  uint64_t miss_absent, miss_truncated, miss_format, miss_checksum;
  uint64_t miss_key, miss_toolchain, miss_untrusted, miss_io;
  uint64_t compiles, loads;
  uint64_t published, publish_lost_race, publish_failed, quarantined, evicted;
  uint64_t lock_waits, lock_timeouts;
  char message[512];
} kiln_cache_statistics;
#define KILN_CACHE_STATISTICS_INIT                                                               \
  {sizeof(kiln_cache_statistics), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
   0, ""}

KILN_API kiln_status kiln_cache_stats(const kiln_engine* engine, kiln_cache_statistics* statistics);

#ifdef __cplusplus
}
#endif
#endif
