/* Kiln: FP8 GEMM for NVIDIA Hopper (sm_90a), compiled at run time. The public C API (C11, C++).
 *
 *   D[M,N] (+)= dequant(A)[M,K] * dequant(B)[N,K]^T
 *
 * once (dense) or for each of G groups (grouped layouts), whose sizes only the device knows.
 *
 * Conventions, once for the whole file:
 *  1. Handles are opaque pointers. The caller destroys what it created; a plan or quantizer keeps
 *     its engine alive. Destroying NULL is a no-op. Kernels are unloaded with the last handle of
 *     their engine: keep one until the work that was enqueued has run, and as long as a CUDA graph
 *     that captured a launch may be replayed.
 *  2. Every call that can fail returns kiln_status; KILN_OK is 0 and no number is ever reused.
 *  3. Out-parameters come last and are zeroed (or NULL) on failure.
 *  4. kiln_last_error() is the text of this thread's last failing call: rule, value, place, remedy.
 *     Success does not clear it.
 *  5. Structs begin with struct_size and struct_version: initialise them with the KILN_*_INIT
 *     macros. A smaller (older) struct gets defaults; a larger one with non-zero bytes that this
 *     library does not know is KILN_ERROR_UNSUPPORTED. Results are written as far as the caller's
 *     struct_size reaches; what is beyond this library's knowledge is zeroed.
 *  6. Thread safety: every function may be called from any thread at any time, except that a handle
 *     must not be destroyed while another call uses it.
 *  7. Pointers named in kiln_operands and kiln_quantize_operands are device pointers of the
 *     engine's device, except those named host_*. All other pointers are host pointers. Host memory
 *     is read before the call returns.
 *  8. Asynchronous: kiln_launch and kiln_quantize enqueue work on the given stream and return. They
 *     never synchronise (but see KILN_CHECK_ON), allocate, or touch another stream. Everything else
 *     is synchronous.
 *  9. Sizes, strides and counts are in elements, not bytes, unless the name says bytes.
 * 10. The calling thread's current CUDA context is the same after every call as before it.
 * 11. The library never prints, exits or aborts. Messages go to the log callback, or to stderr when
 *     none is set and the level asks for it.
 * 12. After fork() the child of a process that created an engine gets KILN_ERROR_FORKED from every
 *     call; destroying inherited handles there does nothing. exec() ends that.
 */
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
#define KILN_VERSION_MINOR 2
#define KILN_VERSION_PATCH 0

/* ---- Status ------------------------------------------------------------------------------- */

typedef int32_t kiln_status;
enum {
  KILN_OK = 0,
  KILN_ERROR_INVALID_ARGUMENT = 1, /* a value breaks a rule: see kiln_last_error() */
  KILN_ERROR_UNSUPPORTED = 2,      /* well-formed, but not for this version or GPU */
  KILN_ERROR_NO_COMPILER = 3,      /* NVRTC (12.4 to 13.x) was not found */
  KILN_ERROR_COMPILE_FAILED = 4,   /* NVRTC refused a program; the message has its log */
  KILN_ERROR_NO_DRIVER = 5,        /* libcuda was not found */
  KILN_ERROR_NO_DEVICE = 6,        /* no Hopper GPU, or an engine made without a device */
  KILN_ERROR_NOT_READY = 7,        /* kernel not loaded and may not be built now */
  KILN_ERROR_FROZEN = 8,           /* miss where compiling is not allowed */
  KILN_ERROR_CAPTURING = 9,        /* not allowed while a stream is being captured */
  KILN_ERROR_DRIVER = 10,          /* a CUDA driver call failed */
  KILN_ERROR_OUT_OF_MEMORY = 11,
  KILN_ERROR_FORKED = 12,
  KILN_ERROR_INTERNAL = 13
};

/* A constant name such as "KILN_ERROR_NO_DEVICE"; "unknown status" for other numbers. */
KILN_API const char* kiln_status_string(kiln_status status);

/* Text of this thread's last failing call; "" if none failed yet. Owned by the library and valid
 * until the next failing call of this thread. */
KILN_API const char* kiln_last_error(void);

/* Copies it into buffer (always terminated when size > 0) and returns its full length. */
KILN_API size_t kiln_last_error_copy(char* buffer, size_t size);

/* ---- Version and environment -------------------------------------------------------------- */

/* The version of the library that is loaded (the macros are those it was compiled against). */
KILN_API void kiln_version(int32_t* major, int32_t* minor, int32_t* patch);

/* One line: version, compiler, template digest. */
KILN_API const char* kiln_build_info(void);

/* What this machine offers. Never fails for a missing piece: it says what is missing. */
typedef struct kiln_probe_report {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t has_compiler;           /* 1 when NVRTC 12.4 to 13.x can be opened */
  int32_t compiler_major;
  int32_t compiler_minor;
  int32_t has_driver;             /* 1 when libcuda can be opened and initialised */
  int32_t driver_version;         /* as cuDriverGetVersion: 13000 is 13.0 */
  int32_t device_count;
  int32_t hopper_device;          /* ordinal of the first sm_90 device, -1 if none */
  int32_t hopper_num_sms;
  char compiler_path[512];
  char compiler_message[1024];    /* why not, where was looked, what to do; "" when found */
  char driver_path[512];
  char driver_message[1024];
  char device_name[128];
  char device_message[1024];
} kiln_probe_report;
#define KILN_PROBE_REPORT_INIT \
  {sizeof(kiln_probe_report), 1, 0, 0, 0, 0, 0, 0, 0, 0, "", "", "", "", "", ""}

/* nvrtc_path: as in kiln_engine_options, or NULL. */
KILN_API kiln_status kiln_probe(const char* nvrtc_path, kiln_probe_report* report);

/* ---- Engine ------------------------------------------------------------------------------- */

typedef struct kiln_engine kiln_engine;
typedef struct kiln_plan kiln_plan;
typedef struct kiln_quantizer kiln_quantizer;

/* The CUDA stream: cudaStream_t and CUstream are this type. NULL is the legacy default stream. */
struct CUstream_st;
typedef struct CUstream_st* kiln_stream;

enum {
  KILN_DEVICE_NONE = -1,    /* plan, compile and cache only; arch and num_sms are given */
  KILN_DEVICE_CURRENT = -2  /* the context that is current on the calling thread */
};

enum {
  KILN_MISS_DEFAULT = 0,   /* KILN_NO_COMPILE in the environment, else KILN_MISS_BLOCK */
  KILN_MISS_BLOCK = 1,     /* compile (or read from disk) and load inside the call */
  KILN_MISS_NOT_READY = 2, /* kiln_launch returns KILN_ERROR_NOT_READY; prepare may compile, and
                              with background_jobs threads of the engine do */
  KILN_MISS_FROZEN = 3     /* never compile: a kernel that is not on disk is KILN_ERROR_FROZEN */
};

enum {
  KILN_LOG_DEFAULT = 0, /* KILN_LOG_LEVEL in the environment, else KILN_LOG_WARNING */
  KILN_LOG_OFF = 1,
  KILN_LOG_ERROR = 2,
  KILN_LOG_WARNING = 3,
  KILN_LOG_INFO = 4,
  KILN_LOG_DEBUG = 5
};

/* With KILN_CHECK_ON each launch of a grouped layout first waits for its stream, reads the group
 * sizes and the expert map back and checks them: labels sorted, in range and aligned, ends that do
 * not decrease, rows at most m, experts in range. The first violation is
 * KILN_ERROR_INVALID_ARGUMENT with index and value, and nothing is enqueued. During a stream
 * capture there is nothing to read yet: the launch is not checked. */
enum {
  KILN_CHECK_DEFAULT = 0, /* KILN_CHECK_GROUPS in the environment, else KILN_CHECK_OFF */
  KILN_CHECK_OFF = 1,
  KILN_CHECK_ON = 2
};

/* With KILN_VERIFY_ON each kernel that is found on disk is compiled all the same, and both are
 * compared byte for byte. A difference is a warning that names the key, counts in verify_mismatches
 * of kiln_cache_stats, and the kernel just compiled is used and stored instead. For tests and for
 * the search for a fault: every first use takes as long as with an empty cache. It does nothing
 * where nothing may or can be compiled. */
enum {
  KILN_VERIFY_DEFAULT = 0, /* KILN_VERIFY in the environment, else KILN_VERIFY_OFF */
  KILN_VERIFY_OFF = 1,
  KILN_VERIFY_ON = 2
};

/* Called without locks held, from any thread that calls Kiln and, with background_jobs, from the
 * engine's own; must not call Kiln or throw. At KILN_LOG_INFO there is one line for each kernel
 * that was found or compiled, with its key and, for a compile, why the cache did not have it. */
typedef void (*kiln_log_callback)(int32_t level, const char* message, void* user);

/* The environment variable named behind a field is read once, by kiln_engine_create, when the field
 * has its default value. With elevated rights (setuid) the environment is ignored. */
typedef struct kiln_engine_options {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t device;         /* ordinal >= 0 (its primary context is retained), or KILN_DEVICE_* */
  int32_t arch;           /* KILN_DEVICE_NONE: 90 for sm_90a; otherwise 0 or 90 */
  int32_t num_sms;        /* KILN_DEVICE_NONE: 1..1024, e.g. 132; else 0 (all) up to the GPU's */
  int32_t miss_policy;    /* KILN_MISS_*;  KILN_NO_COMPILE=1 */
  int32_t log_level;      /* KILN_LOG_*;   KILN_LOG_LEVEL=off|error|warning|info|debug */
  int32_t check_groups;   /* KILN_CHECK_*; KILN_CHECK_GROUPS=1 */
  const char* cache_dir;  /* KILN_CACHE_DIR; NULL: default ~/.cache/kiln; "": no disk cache */
  const char* cache_path; /* KILN_CACHE_PATH; read-only directories a:b:c, searched first */
  const char* nvrtc_path; /* KILN_NVRTC; libnvrtc file or its directory; NULL: search */
  kiln_log_callback log_callback; /* NULL: stderr */
  void* log_user;
  const char* tuned_path; /* KILN_TUNED; files of tuned tiles a:b:c, which go before the built-in
                             table in that order; "": the built-in table alone; "off": no tables */
  int32_t background_jobs; /* 0..64. With KILN_MISS_NOT_READY: so many threads build the kernels
                              that launches missed (no more than 256 wait; each is built once), and
                              a later launch finds them. 0: none, and no thread is ever started */
  int32_t verify;          /* KILN_VERIFY_*; KILN_VERIFY=1 */
} kiln_engine_options;
#define KILN_ENGINE_OPTIONS_INIT                                                                \
  {sizeof(kiln_engine_options), 1, KILN_DEVICE_CURRENT, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, \
   NULL, NULL, 0, 0}

/* One engine is one device, or none. options may be NULL for the defaults. Missing NVRTC is no
 * error here: kernels that are on disk still load. An unusable or untrusted cache directory is a
 * warning and a state in kiln_cache_stats. A tuned file that cannot be used (unreadable, damaged,
 * of a newer format, for another number of SMs) is a warning and is left out, and so is an entry
 * of one that breaks a rule. Errors: NO_DRIVER, NO_DEVICE, UNSUPPORTED (not sm_90),
 * INVALID_ARGUMENT, DRIVER. */
KILN_API kiln_status kiln_engine_create(const kiln_engine_options* options, kiln_engine** engine);

/* The engine goes with its last plan and quantizer. With background_jobs that call forgets the
 * builds that have not begun and waits for those that have (a compile: some seconds at most). Do it
 * before the process exits. */
KILN_API void kiln_engine_destroy(kiln_engine* engine);

/* From now on this engine behaves as with KILN_MISS_FROZEN, whatever its policy was: what is loaded
 * or on disk is used, anything else is KILN_ERROR_FROZEN with the key and the remedy. For a service
 * that is warm and must not compile any more. Compiles that have begun are finished; background
 * builds that have not are forgotten. Cannot be undone; a second call does nothing. Any thread may
 * call it at any time. Errors: INVALID_ARGUMENT, FORKED. */
KILN_API kiln_status kiln_engine_freeze(kiln_engine* engine);

/* ---- Plan ---------------------------------------------------------------------------------- */

enum {
  KILN_LAYOUT_DENSE = 0,              /* A [m,k], B [n,k], D [m,n] */
  KILN_LAYOUT_GROUPED_CONTIGUOUS = 1, /* A [m,k], B [groups,n,k], D [m,n]; m is all rows together */
  KILN_LAYOUT_GROUPED_MASKED = 2,     /* A [groups,m,k], B [groups,n,k], D [groups,m,n] */
  KILN_LAYOUT_GROUPED_K = 3           /* A [m,k], B [n,k], D [groups,m,n]; k: all groups together */
};
enum {
  KILN_SCALING_1D2D = 0, /* A 1x128, B 128x128; dense, grouped_contiguous, grouped_masked */
  KILN_SCALING_1D1D = 1  /* A and B 1x128, M-major; dense, grouped_k */
};
enum { KILN_TYPE_E4M3 = 0, KILN_TYPE_E5M2 = 1, KILN_TYPE_BF16 = 2, KILN_TYPE_F32 = 3 };
enum { KILN_SCALE_ROW_MAJOR = 0, KILN_SCALE_M_MAJOR = 1 };

/* Where a launch finds which group a row, or a position in K, belongs to. */
enum {
  KILN_GROUPS_NONE = 0,   /* dense */
  KILN_GROUPS_LABELS = 1, /* grouped_contiguous: grouping[row] is the group, negative for padding */
  KILN_GROUPS_ENDS = 2,   /* grouped_contiguous, grouped_k: grouping[g] is where group g ends; it
                             begins at the previous end rounded up to the alignment (in K: 128) */
  KILN_GROUPS_ROWS = 3,   /* grouped_masked: grouping[g] is how many rows of group g are valid */
  KILN_GROUPS_PACKED = 4  /* grouped_k: host_group_k[g] is K of group g; A is [m,K_0], [m,K_1], ...
                             one after the other without gaps, B likewise */
};

/* What is asked. M, strides and pointers come with each launch. */
typedef struct kiln_problem {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t layout;     /* KILN_LAYOUT_* */
  int32_t scaling;    /* KILN_SCALING_*, FP32 scales */
  int64_t n;          /* multiple of 8 */
  int64_t k;          /* multiple of 16; the tail of the last block of 128 counts as zeros. 1d1d: K
                         comes with each launch; here is a typical one (grouped_k: of one group) */
  int32_t a_type;     /* KILN_TYPE_E4M3 or KILN_TYPE_E5M2 */
  int32_t b_type;     /* KILN_TYPE_E4M3 or KILN_TYPE_E5M2 */
  int32_t d_type;     /* KILN_TYPE_BF16 or KILN_TYPE_F32 */
  int32_t sfa_major;  /* KILN_SCALE_ROW_MAJOR or KILN_SCALE_M_MAJOR; 1d1d: M_MAJOR, SFB too */
  int32_t accumulate; /* 1: D +=; 0: D = */
  int32_t group_form; /* KILN_GROUPS_* */
  int32_t groups;     /* G: 1 for dense, else 1..1024 */
  int32_t alignment;  /* grouped_contiguous: groups begin at multiples of it: a power of two in
                         1..1024 (1: no padding); else 0 */
  int32_t batch_invariant; /* 1: one tile for every M, so that a row of D has the same bits however
                              many rows are computed with it; 0: the fastest tile for each M */
  int32_t reserved;        /* 0 */
} kiln_problem;
#define KILN_PROBLEM_INIT {sizeof(kiln_problem), 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0}

/* How it is computed; see README "Tiles" for the rules. */
typedef struct kiln_tile {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t block_m, block_n;
  int32_t warpgroups_m, warpgroups_n;
  int32_t stages;
  int32_t cluster_m, cluster_n;
  int32_t raster_group;
  int32_t warpgroups_k;  /* since 0.2: a struct_size of 40 leaves this and the following 1 */
  int32_t cluster_k;
  int32_t stage_blocks;
} kiln_tile;
#define KILN_TILE_INIT {sizeof(kiln_tile), 1, 128, 128, 2, 1, 4, 1, 1, 8, 1, 1, 1}

/* What version 0.1 knew of a tile: the first members of kiln_tile. */
typedef struct kiln_tile_v1 {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t block_m, block_n;
  int32_t warpgroups_m, warpgroups_n;
  int32_t stages;
  int32_t cluster_m, cluster_n;
  int32_t raster_group;
} kiln_tile_v1;

/* Pure CPU: validates the problem and chooses a tile for every M. tile: NULL for the engine's
 * choice, else this one tile for every M. Errors: INVALID_ARGUMENT, UNSUPPORTED. */
KILN_API kiln_status kiln_plan_create(kiln_engine* engine, const kiln_problem* problem,
                                      const kiln_tile* tile, kiln_plan** plan);
KILN_API void kiln_plan_destroy(kiln_plan* plan);

/* Makes every kernel that an M (grouped_masked: an expected_m) in [m_min, m_max] can need ready:
 * from disk, or compiled; loaded if the engine has a device. 0 and INT64_MAX cover every M. Call it
 * before a capture begins: while the per-thread default stream or a blocking stream of the context
 * is being captured it is KILN_ERROR_CAPTURING. Captures of non-blocking streams cannot be seen
 * from here; they are not disturbed. Errors: NO_COMPILER, COMPILE_FAILED, FROZEN, CAPTURING,
 * DRIVER. */
KILN_API kiln_status kiln_plan_prepare(kiln_plan* plan, int64_t m_min, int64_t m_max);

typedef struct kiln_plan_description {
  uint32_t struct_size;
  uint32_t struct_version;
  kiln_tile_v1 tile;             /* the first members of full_tile */
  int64_t m_min, m_max;          /* the interval of M that this tile serves */
  int32_t source;                /* 0 default choice, 1 the caller's tile, 2 tuned for this problem,
                                    3 tuned for one like it */
  int32_t ready;                 /* 1: loaded (or, without a device, compiled) */
  int32_t from_disk;             /* 1: hit, 0: compiled; when ready */
  int32_t registers;             /* per thread; when ready, else 0 */
  int32_t spill_bytes;           /* when ready */
  int32_t threads;
  int64_t dynamic_smem_bytes;
  int64_t cubin_bytes;           /* when ready */
  double compile_ms;             /* of the compile that made this cubin; when ready */
  double estimate_us;            /* the cost model's estimate for this M */
  char key[72];                  /* hex of the cache key, or "" without a compiler identity */
  char reason[256];              /* why this tile, in words */
  kiln_tile full_tile;           /* since 0.2; fit for kiln_plan_create */
} kiln_plan_description;
#define KILN_PLAN_DESCRIPTION_INIT \
  {sizeof(kiln_plan_description), 1, {sizeof(kiln_tile_v1), 1, 0, 0, 0, 0, 0, 0, 0, 0}, \
   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "", "", KILN_TILE_INIT}

/* What a launch with this M (grouped_masked: this expected_m) would use. Compiles and loads
 * nothing. */
KILN_API kiln_status kiln_plan_describe(const kiln_plan* plan, int64_t m,
                                        kiln_plan_description* description);

/* ---- Launch -------------------------------------------------------------------------------- */

/* A, B, D are row-major with the strides given; device memory, 16-byte aligned.
 * SFA: KILN_SCALE_ROW_MAJOR: sfa[row*ld_sfa + block], 4-byte aligned, ld_sfa >= ceil(k/128).
 *      KILN_SCALE_M_MAJOR: sfa[block*ld_sfa + row], 16-byte aligned, ld_sfa >= m, multiple of 4.
 * SFB: 1d2d: sfb[(column/128)*ld_sfb + block], 4-byte aligned, ld_sfb >= ceil(k/128).
 *      1d1d: sfb[block*ld_sfb + column], 16-byte aligned, ld_sfb >= n, multiple of 4.
 * Padding between rows and behind k is never used for a result and may hold anything, NaN too.
 *
 * Groups. Where an operand has a [groups, ...] dimension its slices are *_group_stride elements
 * apart; 0 means packed: rows times row stride. grouped_contiguous: D is written in the rows of
 * groups only, and rows of no group may hold anything in A and SFA. grouped_masked: likewise beyond
 * the valid rows. grouped_k: K of a group is a multiple of 128, or what is missing to one is zeros
 * in A or B (and finite in the other and in the scales); a group without K leaves D as it was, or
 * zero when not accumulating. The arrays in `grouping` and `expert_map` are read by the kernel, so
 * they may change from one replay of a CUDA graph to the next. Values that break the contract give
 * wrong results in D, never a write outside it: see KILN_CHECK_ON. */
typedef struct kiln_operands {
  uint32_t struct_size;
  uint32_t struct_version;
  int64_t m;          /* 0 is a successful no-op; at most 2^31-512; grouped_contiguous: a multiple
                         of the plan's alignment */
  const void* a;
  int64_t lda;        /* >= k, multiple of 16; GROUPS_PACKED: 0 */
  const void* b;
  int64_t ldb;        /* >= k, multiple of 16; GROUPS_PACKED: 0 */
  const float* sfa;
  int64_t ld_sfa;
  const float* sfb;
  int64_t ld_sfb;
  void* d;            /* must not overlap any input */
  int64_t ldd;        /* >= n, multiple of 8 (BF16) or 4 (F32) */
  int32_t num_sms;    /* use at most so many SMs; 0: all that the engine has */
  uint32_t flags;     /* KILN_LAUNCH_* */
  int64_t k;          /* 1d1d: K of this launch, 0 or more (grouped_k: columns of A and B, all
                         groups together; GROUPS_PACKED: the sum of host_group_k). -1: the
                         problem's k (GROUPS_PACKED: that sum; grouped_k with ends needs a value) */
  const int32_t* grouping;   /* int32[m] labels, or int32[groups] ends or rows; 4-byte aligned */
  const int32_t* expert_map; /* NULL, or int32[groups]: which slice of B (grouped_k: of D) group g
                                uses, 0..num_slices-1. grouped_k: no slice twice */
  int32_t num_slices;        /* slices that B (grouped_k: D) has; 0: one for each group */
  int32_t reserved;
  const int32_t* host_group_k; /* GROUPS_PACKED: int32[groups] on the host, multiples of 128 */
  int64_t expected_m; /* grouped_masked: about how many rows a group has, 1..m; chooses the tile */
  int64_t a_group_stride;   /* grouped_masked; multiple of 16 */
  int64_t b_group_stride;   /* grouped_contiguous, grouped_masked; multiple of 16 */
  int64_t sfa_group_stride; /* grouped_masked; M-major: multiple of 4 */
  int64_t sfb_group_stride; /* grouped_contiguous, grouped_masked */
  int64_t d_group_stride;   /* grouped_masked, grouped_k; multiple of 8 (BF16) or 4 (F32) */
} kiln_operands;
#define KILN_OPERANDS_INIT                                                                       \
  {sizeof(kiln_operands), 1, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, 0, 0, -1, NULL, NULL, \
   0, 0, NULL, 0, 0, 0, 0, 0, 0}

enum {
  /* Programmatic dependent launch: the kernel may start before the previous one of the stream ends;
   * it waits for that one's data by itself. */
  KILN_LAUNCH_PROGRAMMATIC = 1u,
  /* grouped_contiguous without accumulation: rows of no group become zeros in D. */
  KILN_LAUNCH_ZERO_PADDING = 2u
};

/* Enqueues one kernel (KILN_GROUPS_PACKED: one for every 96 groups). After the kernel is ready: no
 * I/O, no allocation, no lock, no system call of its own; safe inside a capture. Same operands and
 * tile: same bits, always. On a miss it does what the engine's miss policy says; during a capture
 * a miss is always KILN_ERROR_NOT_READY. Fields that the plan's layout does not use keep the values
 * of KILN_OPERANDS_INIT.
 * Errors: INVALID_ARGUMENT (nothing is enqueued), NO_DEVICE, NOT_READY, FROZEN, DRIVER. */
KILN_API kiln_status kiln_launch(const kiln_plan* plan, const kiln_operands* operands,
                                 kiln_stream stream);

/* ---- FP8 casts ------------------------------------------------------------------------------ */

enum { KILN_SCALE_1X128 = 0, KILN_SCALE_128X128 = 1 };

typedef struct kiln_quantize_problem {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t in_type;      /* KILN_TYPE_BF16 or KILN_TYPE_F32 */
  int32_t out_type;     /* KILN_TYPE_E4M3 or KILN_TYPE_E5M2 */
  int32_t granularity;  /* KILN_SCALE_1X128 (for A) or KILN_SCALE_128X128 (for B) */
  int32_t scale_major;  /* of the scales; KILN_SCALE_M_MAJOR for 1x128 only */
  int32_t power_of_two; /* 1: scales are rounded up to powers of two */
  int32_t two_way;      /* 1: also the cast of the transposed matrix, in one pass (BF16 only) */
} kiln_quantize_problem;
#define KILN_QUANTIZE_PROBLEM_INIT {sizeof(kiln_quantize_problem), 1, 2, 0, 0, 0, 0, 0}

/* in [rows, cols] -> out [rows, cols] FP8 with scales laid out as SFA (1x128) or SFB (128x128).
 * Per block, in FP32: scale = max|x| / largest FP8 value, at least the smallest normal number, and
 * 1 when the block is all zeros; out = x * (1 / scale), rounded to the nearest, ties to even,
 * saturating. A NaN stays NaN and does not count for the scale; an infinity makes its block's scale
 * infinite, itself NaN and the rest of the block zeros.
 * two_way: out_t[c][r] = in[r][c], cast with scales of its own: 1x128 blocks run along rows (so the
 * weight gradient can take it as an operand), 128x128 blocks are the same blocks, transposed (so
 * dgrad can take it as B). Rows of out_t are filled up with zeros to a multiple of 16. */
typedef struct kiln_quantize_operands {
  uint32_t struct_size;
  uint32_t struct_version;
  int64_t rows;         /* 0 is a successful no-op; at most 2^31-512, as m and n of a GEMM */
  int64_t cols;         /* multiple of 16 */
  const void* in;       /* 16-byte aligned */
  int64_t ld_in;        /* >= cols, multiple of 8 (BF16) or 4 (F32) */
  void* out;            /* 16-byte aligned */
  int64_t ld_out;       /* >= cols, multiple of 16 */
  float* scales;        /* 4-byte aligned */
  int64_t ld_scales;    /* row-major: >= ceil(cols/128); m-major: >= rows */
  void* out_t;          /* two_way: [cols, rows] FP8, 16-byte aligned; else NULL */
  int64_t ld_out_t;     /* >= rows rounded up to 16, multiple of 16 */
  float* scales_t;      /* two_way: scales of out_t; 4-byte aligned */
  int64_t ld_scales_t;  /* row-major: >= ceil(rows/128); m-major: >= cols */
} kiln_quantize_operands;
#define KILN_QUANTIZE_OPERANDS_INIT \
  {sizeof(kiln_quantize_operands), 1, 0, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0}

KILN_API kiln_status kiln_quantizer_create(kiln_engine* engine,
                                           const kiln_quantize_problem* problem,
                                           kiln_quantizer** quantizer);
KILN_API void kiln_quantizer_destroy(kiln_quantizer* quantizer);

/* As kiln_plan_prepare and kiln_launch, for the cast's one kernel. */
KILN_API kiln_status kiln_quantizer_prepare(kiln_quantizer* quantizer);
KILN_API kiln_status kiln_quantize(const kiln_quantizer* quantizer,
                                   const kiln_quantize_operands* operands, kiln_stream stream);

/* ---- Counters -------------------------------------------------------------------------------- */

enum {
  KILN_CACHE_USABLE = 0,
  KILN_CACHE_DISABLED = 1,
  KILN_CACHE_READ_ONLY = 2,
  KILN_CACHE_UNTRUSTED = 3,
  KILN_CACHE_UNUSABLE = 4
};

/* Counts since the engine was created, of this engine alone. hits and misses count kernels: found
 * on disk or not. The miss_* reasons count single lookups; a kernel that is compiled was looked up
 * at least once and, where the directory can be locked, again under the lock. Counters are read one
 * by one while others may be at work, so sums can be off by what happens meanwhile. */
typedef struct kiln_cache_statistics {
  uint32_t struct_size;
  uint32_t struct_version;
  int32_t state;          /* KILN_CACHE_* */
  int32_t reserved;
  uint64_t hits, misses;
  uint64_t miss_absent, miss_truncated, miss_format, miss_checksum;
  uint64_t miss_key, miss_toolchain, miss_untrusted, miss_io;
  uint64_t compiles, loads;
  uint64_t published, publish_lost_race, publish_failed, quarantined, evicted;
  uint64_t lock_waits, lock_timeouts;
  char message[512];      /* why the state is not usable; "" otherwise */
  uint64_t memory_hits;   /* prepares and launches that found the kernel loaded by another one; not
                             launches whose plan had it already */
  uint64_t directory_hits; /* disk lookups that cache_dir answered */
  uint64_t layer_hits[8];  /* ... and each directory of cache_path, in its order; the eighth counts
                              all from there on */
  uint64_t miss_other_toolchain; /* kernels that were compiled though another NVRTC's are there */
  uint64_t background_pending;   /* queued or in progress, now */
  uint64_t background_built, background_failed;
  uint64_t background_refused;   /* launches that found the queue full */
  int32_t frozen;                /* 1: KILN_MISS_FROZEN, or kiln_engine_freeze was called */
  int32_t reserved2;
  uint64_t verified;             /* hits that were compiled again and compared */
  uint64_t verify_mismatches;    /* ... and were not what their key compiles to */
} kiln_cache_statistics;
#define KILN_CACHE_STATISTICS_INIT                                                               \
  {sizeof(kiln_cache_statistics), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
   0, "", 0, 0, {0, 0, 0, 0, 0, 0, 0, 0}, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* Any thread, at any time. Errors: INVALID_ARGUMENT, UNSUPPORTED, FORKED. */
KILN_API kiln_status kiln_cache_stats(const kiln_engine* engine, kiln_cache_statistics* statistics);

#ifdef __cplusplus
}
#endif
#endif /* KILN_H_ */
