import { afterEach } from 'vitest'
import { forgetFinished, tails } from './proc.ts'

afterEach((context) => {
  if (context.task.result?.state === 'fail') {
    const text = tails()
    if (text !== '') console.error(`output of the processes of "${context.task.name}":\n${text}`)
  }
  forgetFinished()
})
