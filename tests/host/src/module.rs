//! The release module: found, compiled, looked into.

use std::path::{Path, PathBuf};
use std::{env, fs};

use wasmi::{CompilationMode, Config, Engine};

/// The environment variable that names another module.
pub const MODULE_VARIABLE: &str = "MESHWEFT_WASM";

/// A compiled module; instances are made from it.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) module: wasmi::Module,
}

impl Module {
    /// The module that `make build` leaves, or the one that `MESHWEFT_WASM` names.
    ///
    /// # Panics
    ///
    /// If there is none: a test that needs it must fail, not pass by.
    #[must_use]
    pub fn load() -> Self {
        let path = Self::path();
        let bytes = fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "cannot read the module {}: {error}; run `make build` first, or let \
                 {MODULE_VARIABLE} name a module",
                path.display()
            )
        });
        Self::compile(&bytes)
    }

    /// Where that module is.
    #[must_use]
    pub fn path() -> PathBuf {
        env::var_os(MODULE_VARIABLE).map_or_else(default_path, PathBuf::from)
    }

    /// A module from its bytes.
    ///
    /// # Panics
    ///
    /// If they are not a valid module.
    #[must_use]
    pub fn compile(bytes: &[u8]) -> Self {
        let mut config = Config::default();
        // Lazy compilation would be paid from the fuel of whoever comes first.
        config.consume_fuel(true).compilation_mode(CompilationMode::Eager);
        let engine = Engine::new(&config);
        let module = wasmi::Module::new(&engine, bytes)
            .unwrap_or_else(|error| panic!("not a valid module: {error}"));
        Self { module }
    }

    /// Everything that the module imports: module and name.
    #[must_use]
    pub fn imports(&self) -> Vec<(String, String)> {
        let imports = self.module.imports();
        imports.map(|import| (import.module().to_owned(), import.name().to_owned())).collect()
    }

    /// The names of everything that the module exports.
    #[must_use]
    pub fn exports(&self) -> Vec<String> {
        self.module.exports().map(|export| export.name().to_owned()).collect()
    }
}

fn default_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/meshweft.wasm")
}
