//! Rules inside a component: a finished policy is the built-in evaluator with its rules in its memory.
//!
//! The rules stand in a data segment of their own, behind all that the evaluator uses of its memory. Where they are is
//! written behind a mark in the evaluator's data (`guest/src/rt.rs`). Nothing else differs between two finished
//! policies, so a component is one if and only if it is what [`Template::policy`] makes of the rules that are found in
//! it.

use std::ops::Range;

use wasmparser::{Parser, Payload};

/// What stands before the place and the length of the rules.
const MARK: &[u8; 16] = b"portcullis rules";

const PAGE: usize = 64 << 10;

/// Sections of a core module (WebAssembly Core Specification 5.5.2).
const MEMORY_SECTION: u8 = 5;
const DATA_SECTION: u8 = 11;
/// Sections of a component that contain others.
const CORE_MODULE: u8 = 1;

/// The built-in evaluator without rules, cut into the parts that change and those that do not.
pub struct Template {
    /// The component before the core module's section.
    before: Vec<u8>,
    /// The component behind it, without the export of `packed-rules`.
    behind: Vec<u8>,
    /// The core module before its memory section.
    module_start: Vec<u8>,
    /// Pages of memory, and the rest of the section behind them.
    pages: usize,
    /// The core module between the memory and the data section.
    between: Vec<u8>,
    /// Number of data segments.
    segments: u32,
    /// The segments, and where among them the place and the length of the rules belong.
    data: Vec<u8>,
    place: Range<usize>,
    /// The core module behind the data section.
    module_end: Vec<u8>,
}

/// The evaluator is not built as this expects.
#[derive(Debug, thiserror::Error)]
#[error("the built-in evaluator cannot take rules: {0}")]
pub struct TemplateError(&'static str);

impl Template {
    /// Cuts the evaluator, which exports `packed-rules` last.
    pub fn new(evaluator: &[u8], packed_rules: &str) -> Result<Self, TemplateError> {
        let wrong = |_| TemplateError("it is not a component");
        let export = last_export(evaluator, packed_rules).map_err(wrong)?;
        let export = export.ok_or(TemplateError("packed-rules is not its last export"))?;
        let module = main_module(evaluator)
            .map_err(wrong)?
            .ok_or(TemplateError("it has no core module"))?;
        let core = &evaluator[module.content.clone()];
        let sections = sections(core).ok_or(TemplateError("its core module is malformed"))?;
        let find = |id| sections.iter().find(|section| section.id == id);
        let memory = find(MEMORY_SECTION).ok_or(TemplateError("it has no memory"))?;
        let data = find(DATA_SECTION).ok_or(TemplateError("it has no data"))?;
        let pages = pages(&core[memory.content.clone()]).ok_or(TemplateError(
            "it has not one memory without an upper limit",
        ))?;
        let mut content = &core[data.content.clone()];
        let segments = read_leb(&mut content).ok_or(TemplateError("its data is malformed"))?;
        let mark = only(content, MARK).ok_or(TemplateError("its mark is not found once"))?;
        let place = mark + MARK.len()..mark + MARK.len() + 8;
        if content.get(place.clone()) != Some(&[0; 8]) {
            return Err(TemplateError("it has rules already"));
        }
        Ok(Template {
            before: evaluator[..module.start].to_vec(),
            behind: [
                &evaluator[module.content.end..export.start],
                &evaluator[export.end..],
            ]
            .concat(),
            module_start: core[..memory.start].to_vec(),
            pages,
            between: core[memory.content.end..data.start].to_vec(),
            segments,
            data: content.to_vec(),
            place,
            module_end: core[data.content.end..].to_vec(),
        })
    }

    /// The finished policy with these rules; `None` if they do not fit into its memory.
    pub fn policy(&self, rules: &[u8]) -> Option<Vec<u8>> {
        let start = u32::try_from(self.pages * PAGE).ok()?;
        let length = u32::try_from(rules.len()).ok()?;
        start.checked_add(length)?;
        let pages = self.pages + rules.len().div_ceil(PAGE);

        let mut memory = vec![1, 0];
        write_leb(&mut memory, pages as u64);

        let mut data = Vec::with_capacity(self.data.len() + rules.len() + 32);
        write_leb(&mut data, u64::from(self.segments) + 1);
        let head = data.len();
        data.extend_from_slice(&self.data);
        let place = head + self.place.start..head + self.place.end;
        data[place].copy_from_slice(&[start.to_le_bytes(), length.to_le_bytes()].concat());
        // An active segment of the first memory: i32.const start, end.
        data.extend_from_slice(&[0, 0x41]);
        write_signed_leb(&mut data, i64::from(start));
        data.push(0x0b);
        write_leb(&mut data, rules.len() as u64);
        data.extend_from_slice(rules);

        let mut module = Vec::with_capacity(self.between.len() + data.len() + self.before.len());
        module.extend_from_slice(&self.module_start);
        write_section(&mut module, MEMORY_SECTION, &memory);
        module.extend_from_slice(&self.between);
        write_section(&mut module, DATA_SECTION, &data);
        module.extend_from_slice(&self.module_end);

        let mut component =
            Vec::with_capacity(self.before.len() + module.len() + self.behind.len());
        component.extend_from_slice(&self.before);
        write_section(&mut component, CORE_MODULE, &module);
        component.extend_from_slice(&self.behind);
        Some(component)
    }

    /// The rules of a finished policy with this evaluator; `None` if the component is anything else.
    pub fn rules<'a>(&self, component: &'a [u8]) -> Option<&'a [u8]> {
        let content = component.strip_prefix(&self.before[..])?;
        let module = read_section(content, CORE_MODULE)?;
        let module = module.strip_prefix(&self.module_start[..])?;
        let rest = skip_section(module, MEMORY_SECTION)?;
        let data = read_section(rest.strip_prefix(&self.between[..])?, DATA_SECTION)?;
        let rules = last_segment(data, self.data.len())?;
        (self.policy(rules)? == component).then_some(rules)
    }
}

/// The content of the segment behind so many bytes of other segments.
fn last_segment(mut data: &[u8], others: usize) -> Option<&[u8]> {
    read_leb(&mut data)?;
    let mut segment = data.get(others..)?.strip_prefix(&[0, 0x41])?;
    read_leb(&mut segment)?;
    let mut content = segment.strip_prefix(&[0x0b])?;
    let length = read_leb(&mut content)? as usize;
    (content.len() == length).then_some(content)
}

/// A section with its header.
struct Section {
    id: u8,
    start: usize,
    content: Range<usize>,
}

/// The core module of the evaluator: the one with the most code.
fn main_module(component: &[u8]) -> Result<Option<Section>, wasmparser::BinaryReaderError> {
    let mut main: Option<Section> = None;
    let mut end_of_last = 8;
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload?;
        match &payload {
            Payload::ModuleSection {
                unchecked_range, ..
            } if depth == 0 => {
                let range = unchecked_range.clone();
                if main
                    .as_ref()
                    .is_none_or(|main| main.content.len() < range.len())
                {
                    main = Some(Section {
                        id: CORE_MODULE,
                        start: end_of_last,
                        content: range.clone(),
                    });
                }
                end_of_last = range.end;
                depth += 1;
            }
            Payload::ModuleSection { .. } => depth += 1,
            Payload::ComponentSection {
                unchecked_range, ..
            } => {
                if depth == 0 {
                    end_of_last = unchecked_range.end;
                }
                depth += 1;
            }
            Payload::End(_) => depth -= 1,
            other if depth == 0 => {
                if let Some((_, range)) = other.as_section() {
                    end_of_last = range.end;
                }
            }
            _ => {}
        }
    }
    Ok(main)
}

/// The section of the last export of a component, if it exports that interface and nothing else.
fn last_export(
    component: &[u8],
    interface: &str,
) -> Result<Option<Range<usize>>, wasmparser::BinaryReaderError> {
    let mut depth = 0;
    let mut start = 8;
    let mut found = None;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload?;
        let end = match &payload {
            Payload::ModuleSection {
                unchecked_range, ..
            }
            | Payload::ComponentSection {
                unchecked_range, ..
            } => {
                depth += 1;
                (depth == 1).then_some(unchecked_range.end)
            }
            Payload::End(_) => {
                depth -= 1;
                None
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                let mut exports = section.clone().into_iter();
                let first = exports.next().transpose()?;
                let is_it = first.is_some_and(|export| export.name.name == interface);
                found = (is_it && exports.next().is_none()).then(|| start..section.range().end);
                Some(section.range().end)
            }
            other if depth == 0 => other.as_section().map(|(_, range)| range.end),
            _ => None,
        };
        start = end.unwrap_or(start);
    }
    Ok(found)
}

/// The sections of a core module.
fn sections(module: &[u8]) -> Option<Vec<Section>> {
    let mut sections = Vec::new();
    let mut start = 8;
    while start < module.len() {
        let mut rest = &module[start + 1..];
        let length = read_leb(&mut rest)? as usize;
        let from = module.len() - rest.len();
        let content = from..from.checked_add(length)?;
        module.get(content.clone())?;
        sections.push(Section {
            id: module[start],
            start,
            content: content.clone(),
        });
        start = content.end;
    }
    Some(sections)
}

/// The pages of a section with one memory that has no upper limit.
fn pages(mut section: &[u8]) -> Option<usize> {
    section = section.strip_prefix(&[1, 0])?;
    let pages = read_leb(&mut section)? as usize;
    section.is_empty().then_some(pages)
}

/// The content of the section that some bytes begin with.
fn read_section(bytes: &[u8], id: u8) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(&[id])?;
    let length = read_leb(&mut rest)? as usize;
    rest.get(..length)
}

/// What stands behind the section that some bytes begin with.
fn skip_section(bytes: &[u8], id: u8) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(&[id])?;
    let length = read_leb(&mut rest)? as usize;
    rest.get(length..)
}

fn write_section(to: &mut Vec<u8>, id: u8, content: &[u8]) {
    to.push(id);
    write_leb(to, content.len() as u64);
    to.extend_from_slice(content);
}

/// LEB128 (WebAssembly Core Specification 5.2.2).
fn read_leb(bytes: &mut &[u8]) -> Option<u32> {
    let mut number: u32 = 0;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn write_leb(to: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn write_signed_leb(to: &mut Vec<u8>, mut number: i64) {
    loop {
        let byte = number as u8 & 0x7f;
        number >>= 7;
        if number == 0 && byte & 0x40 == 0 || number == -1 && byte & 0x40 != 0 {
            to.push(byte);
            return;
        }
        to.push(byte | 0x80);
    }
}

/// Where something stands, if it stands there once.
fn only(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut found = memchr::memmem::find_iter(bytes, wanted);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}
