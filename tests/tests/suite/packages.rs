//! The Debian packages, as `cargo deb` makes them: what is in them, and what installing, upgrading and
//! purging does to a root file system that has nothing yet. Nothing here touches this machine's own root.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use collegium_tests::{
    harness::{run, workspace},
    testbed::LIMIT,
};

use crate::deploy::{PROGRAMS, analyze, binary, deploy, has, targets_in, text};

/// Both packages, made once of the programs under test; None if this machine cannot make them.
fn packages() -> Option<&'static [PathBuf; 2]> {
    static MADE: OnceLock<Option<(tempfile::TempDir, [PathBuf; 2])>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let tool = workspace().join("target/tools/bin/cargo-deb");
        if !tool.exists() {
            eprintln!("left out: there is no {}; cargo verify installs it", tool.display());
            return None;
        }
        if !has("dpkg-deb", "dpkg") || !has("dpkg-shlibdeps", "dpkg-dev") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let made = PROGRAMS.map(|program| make(&tool, program, dir.path()));
        Some((dir, made))
    });
    made.as_ref().map(|(_, made)| made)
}

fn make(tool: &Path, program: &str, dir: &Path) -> PathBuf {
    // cargo-deb takes no development build; so here is one where it looks for a release.
    let release = dir.join("release");
    fs::create_dir_all(&release).unwrap();
    fs::copy(binary(program), release.join(program)).unwrap();
    let mut command = Command::new(tool);
    command
        .args(["deb", "--no-build", "--no-strip", "--fast", "--package", program, "--output"])
        .arg(dir.join(format!("{program}.deb")))
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", dir)
        .env("CARGO_NET_OFFLINE", "true");
    run(&mut command, LIMIT).unwrap();
    dir.join(format!("{program}.deb"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_package_holds_the_program_its_unit_and_its_samples_and_no_more_than_root_may_change() {
    let Some(packages) = packages() else { return };
    for (program, package) in PROGRAMS.iter().zip(packages) {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(dir.path()), LIMIT).unwrap();
        let at = |path: &str| dir.path().join(path);
        let short = program.trim_start_matches("collegium-");
        let sample = format!("usr/share/doc/{program}/examples/{short}.toml");
        let program_file = at(&format!("usr/bin/{program}"));
        assert_eq!(mode(&program_file), 0o755);
        for (file, source) in [
            (
                format!("usr/lib/systemd/system/{program}.service"),
                format!("systemd/{program}.service"),
            ),
            (format!("usr/lib/sysusers.d/{program}.conf"), format!("sysusers/{program}.conf")),
            (format!("usr/lib/tmpfiles.d/{program}.conf"), format!("tmpfiles/{program}.conf")),
            (format!("etc/default/{program}"), format!("default/{program}")),
            (sample.clone(), format!("{short}.toml")),
        ] {
            assert_eq!(fs::read(at(&file)).unwrap(), fs::read(deploy(&source)).unwrap(), "{file}");
            assert_eq!(mode(&at(&file)), 0o644, "{file}");
        }
        for document in ["OPERATIONS.md", "CHANGELOG.md", "copyright"] {
            assert!(at(&format!("usr/share/doc/{program}/{document}")).exists(), "{document}");
        }
        // What was unpacked works.
        let mut check = Command::new(&program_file);
        run(check.args(["config", "check", "--file"]).arg(at(&sample)), LIMIT).unwrap();
        if has("systemd-analyze", "systemd") {
            targets_in(&at("usr/lib/systemd/system"));
            let unit = format!("{program}.service");
            assert_eq!(analyze("verify", dir.path(), &["--man=no", &unit]), "");
        }
    }
}

#[test]
fn a_package_says_what_it_is_and_needs() {
    let Some(packages) = packages() else { return };
    for (program, package) in PROGRAMS.iter().zip(packages) {
        let field = |name: &str| {
            let mut command = Command::new("dpkg-deb");
            text(&run(command.arg("-f").arg(package).arg(name), LIMIT).unwrap()).trim().to_owned()
        };
        assert_eq!(field("Package"), *program);
        assert_eq!(field("Version"), concat!(env!("CARGO_PKG_VERSION"), "-1"));
        let depends = field("Depends");
        assert!(depends.contains("libc6 (>=") && depends.contains("systemd"), "{depends}");
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("dpkg-deb").arg("-e").arg(package).arg(dir.path()), LIMIT).unwrap();
        let conffiles = fs::read_to_string(dir.path().join("conffiles")).unwrap();
        assert_eq!(conffiles.trim(), format!("/etc/default/{program}"));
        for script in ["postinst", "prerm", "postrm"] {
            let script = dir.path().join(script);
            assert_eq!(mode(&script), 0o755);
            run(Command::new("sh").arg("-n").arg(&script), LIMIT).unwrap();
        }
    }
}

/// A root file system with an empty package database, and a service manager that writes down what it
/// is asked.
struct Machine {
    root: tempfile::TempDir,
    asked: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log", "etc", "stubs"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
        let asked = root.path().join("asked");
        let stub = root.path().join("stubs/systemctl");
        fs::write(&stub, format!("#!/bin/sh\necho \"$@\" >> '{}'\n", asked.display())).unwrap();
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
        Self { root, asked }
    }

    fn dpkg(&self, verb: &str, what: &[&Path]) -> Output {
        let stubs = self.root.path().join("stubs");
        let path = env::var_os("PATH").unwrap();
        let path = env::join_paths([stubs].into_iter().chain(env::split_paths(&path))).unwrap();
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", self.root.path().display()))
            // The root has no libc6 of its own, and no shell to run the packages' scripts in.
            .args(["--force-depends", "--force-script-chrootless", verb])
            .args(what)
            .env("PATH", path);
        run(&mut command, LIMIT).unwrap()
    }

    /// What the service manager was asked since the last time.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(&self.asked).unwrap_or_default();
        fs::write(&self.asked, "").unwrap();
        asked.lines().map(str::to_owned).collect()
    }
}

/// Whether packages can be installed here, into a folder.
fn can_install() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!(
            "left out: installing into a folder gives files to other users, which only root may do"
        );
    }
    root && has("dpkg", "dpkg")
        && has("systemd-sysusers", "systemd")
        && has("systemd-tmpfiles", "systemd")
}

#[test]
fn installing_makes_users_and_directories_and_starts_nothing() {
    let Some(packages) = packages().filter(|_| can_install()) else { return };
    let machine = Machine::new();
    let both: Vec<&Path> = packages.iter().map(PathBuf::as_path).collect();
    let said = text(&machine.dpkg("--install", &both));
    for program in PROGRAMS {
        assert!(said.contains(&format!("systemctl enable --now {program}")), "{said}");
    }
    let asked = machine.asked();
    let starts = |word: &String| word.starts_with("start") || word.starts_with("enable");
    assert!(!asked.iter().any(starts), "{asked:?}");

    let users = fs::read_to_string(machine.root.path().join("etc/passwd")).unwrap();
    for program in PROGRAMS {
        let entry = users.lines().find(|line| line.starts_with(&format!("{program}:"))).unwrap();
        let ids: Vec<u32> = entry.split(':').filter_map(|field| field.parse().ok()).collect();
        let short = program.trim_start_matches("collegium-");
        let home = machine.root.path().join("var/lib/collegium").join(short);
        let owner = fs::metadata(&home).unwrap();
        assert_eq!((mode(&home), vec![owner.uid(), owner.gid()]), (0o700, ids), "{program}");
    }
    assert_eq!(mode(&machine.root.path().join("var/lib/collegium/import")), 0o2750);
}

#[test]
fn an_upgrade_restarts_what_runs_and_keeps_what_the_site_wrote_and_a_purge_keeps_the_records() {
    let Some(packages) = packages().filter(|_| can_install()) else { return };
    let machine = Machine::new();
    let agent = packages[1].as_path();
    machine.dpkg("--install", &[agent]);
    let environment = machine.root.path().join("etc/default/collegium-agent");
    fs::write(&environment, "HTTPS_PROXY=http://proxy:3128\n").unwrap();
    let key = machine.root.path().join("var/lib/collegium/agent/key");
    fs::write(&key, "a key").unwrap();
    machine.asked();

    machine.dpkg("--install", &[agent]);
    assert_eq!(machine.asked(), ["daemon-reload", "try-restart collegium-agent.service"]);
    let kept = fs::read_to_string(&environment).unwrap();
    assert_eq!(kept, "HTTPS_PROXY=http://proxy:3128\n");

    let said = text(&machine.dpkg("--purge", &[Path::new("collegium-agent")]));
    assert_eq!(machine.asked(), ["disable --now collegium-agent.service", "daemon-reload"]);
    assert!(said.contains("/var/lib/collegium/agent stays"), "{said}");
    assert_eq!(fs::read_to_string(&key).unwrap(), "a key");
    assert!(!environment.exists());
    let gone = machine.root.path().join("usr/bin/collegium-agent");
    assert!(!gone.exists());
}
