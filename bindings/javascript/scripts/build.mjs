// Makes evaluator/ from the evaluator's component. `--check` says whether it is there.
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const target = join(root, 'evaluator')
const built = '../../target/wasm32-wasip2/release/portcullis_evaluator.wasm'

if (process.argv[2] === '--check') {
  if (existsSync(join(target, 'evaluator.js'))) process.exit(0)
  console.error('evaluator/ is missing: npm run build')
  process.exit(1)
}

const component = resolve(process.argv[2] ?? join(root, built))
if (!existsSync(component)) {
  console.error(`there is no ${component}; it is made by

    cargo build --release --target wasm32-wasip2 --package portcullis-evaluator

or name another file: npm run build -- FILE`)
  process.exit(1)
}

rmSync(target, { recursive: true, force: true })
const to = ['--out-dir', target, '--name', 'evaluator', '--instantiation', 'async', '--no-nodejs-compat']
execFileSync('jco', ['transpile', component, ...to, '--quiet'], { stdio: 'inherit' })
// The interface has strings of UTF-8 only: what is none is no answer, and nothing of a text is left out.
const script = join(target, 'evaluator.js')
const bindings = readFileSync(script, 'utf8')
const [loose, strict] = ['new TextDecoder()', "new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })"]
if (bindings.split(loose).length !== 2) throw new Error(`the bindings have another decoder than ${loose}`)
writeFileSync(script, bindings.replace(loose, strict))
// The types of the package are index.d.ts.
for (const name of readdirSync(target)) {
  if (!/\.(js|wasm)$/.test(name)) rmSync(join(target, name), { recursive: true })
}

// The package has a copy of the licences; the evaluator has data of the public suffix list, which is under MPL-2.0.
for (const name of ['LICENSE-APACHE', 'LICENSE-MIT']) {
  const file = join(root, '../..', name)
  if (existsSync(file)) copyFileSync(file, join(root, name))
}
